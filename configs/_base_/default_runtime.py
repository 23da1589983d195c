default_scope = 'cal_mm'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='accuracy/top1', rule='greater'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # cal_mm's own
    statistics=dict(type='DataStatisticsHook'),
    epoch_seed=dict(type='EpochSeedHook'),
    progress=dict(type='TrainProgressHook'),
    feature_cache=dict(type='FeatureCacheHook'),
    contribution=dict(type='ContributionHook'),
    calibration=dict(type='CalibrationHook'),
    resumed_validation=dict(type='ResumedValidationHook'),
)

env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
visualizer = dict(
    type='Visualizer',
    vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
)
log_processor = dict(window_size=10, by_epoch=True)
log_level = 'INFO'
randomness = dict(seed=0)
load_from = None
resume = False
