_base_ = [
    '../_base_/models/mvsa_single_finetuned.py',
    '../_base_/datasets/mvsa_single_224.py',
    '../_base_/schedules/adamw_finetune_10e.py',
    '../_base_/methods/concat.py',
    '../_base_/default_runtime.py',
]
model = _base_.method_model
optim_wrapper = _base_.method_optim_wrapper
