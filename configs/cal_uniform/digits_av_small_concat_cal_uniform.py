_base_ = [
    '../_base_/models/digits_av_small.py',
    '../_base_/datasets/digits_av.py',
    '../_base_/schedules/adamw_20e.py',
    '../_base_/methods/cal_uniform.py',
    '../_base_/default_runtime.py',
]
model = _base_.method_model
optim_wrapper = _base_.method_optim_wrapper
