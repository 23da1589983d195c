_base_ = ['./mvsa_single_frozen_concat_concat_uni.py', '../_base_/augmentations/mvsa_single.py']
train_dataloader = dict(
    dataset=dict(pipeline=[*_base_.pipeline[:-1], *_base_.augmentation, _base_.pipeline[-1]])
)
