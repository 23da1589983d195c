_base_ = ['./uci_digits_mlp_concat_concat_uni.py', '../_base_/augmentations/uci_digits.py']
train_dataloader = dict(
    dataset=dict(pipeline=[*_base_.pipeline[:-1], *_base_.augmentation, _base_.pipeline[-1]])
)
