# EfficientNet-Lite0 (ImageNet, from a package) for RGB and for depth as colours, as in nyud2_frozen.py, trained to the end: for a GPU.
_base_ = 'nyud2_frozen.py'
model = dict(encoders=dict(depth=dict(frozen=False), rgb=dict(frozen=False)))
