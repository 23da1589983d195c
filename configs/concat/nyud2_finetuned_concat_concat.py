_base_ = [
    '../_base_/models/nyud2_finetuned.py',
    '../_base_/datasets/nyud2.py',
    '../_base_/schedules/adamw_finetune_10e.py',
    '../_base_/methods/concat.py',
    '../_base_/default_runtime.py',
]
model = _base_.method_model
optim_wrapper = _base_.method_optim_wrapper
