_base_ = ['./digits_av_small_concat_cal.py', '../_base_/augmentations/digits_av.py']
train_dataloader = dict(
    dataset=dict(pipeline=[*_base_.pipeline[:-1], *_base_.augmentation, _base_.pipeline[-1]])
)
