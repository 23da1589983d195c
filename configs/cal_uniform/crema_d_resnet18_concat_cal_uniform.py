_base_ = [
    '../_base_/models/av_resnet18.py',
    '../_base_/datasets/crema_d.py',
    '../_base_/schedules/sgd_100e.py',
    '../_base_/methods/cal_uniform.py',
    '../_base_/default_runtime.py',
]
model = _base_.method_model
model.num_classes = 6
model.data_preprocessor = dict(frontends=dict(audio=dict(name='ogm')))
model.bottleneck.out_channels = 512  # as wide as the encoders, so that the fusion is that of `concat`
optim_wrapper = _base_.method_optim_wrapper
