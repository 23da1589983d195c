# EfficientNet-Lite0 (ImageNet) and MiniLM-L6 from packages, as in mvsa_single_frozen.py, trained to the end: for a GPU.
_base_ = 'mvsa_single_frozen.py'
model = dict(encoders=dict(image=dict(frozen=False), text=dict(frozen=False)))
