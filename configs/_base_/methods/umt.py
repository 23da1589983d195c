# UMT: each encoder also learns the features of a unimodal teacher.
method = dict(
    title='UMT',
    acts_on='loss, with teachers made before training',
    formula='CE(y) + 10 sum_m mean (z_m - z_m^teacher)^2',
    source='Du et al., ICML 2023 (arXiv 2305.01233)',
    modalities='M >= 1',
    splits='exact',
    differences='Teachers are trained on the spot for a quarter of the run\'s default schedule (epochs=5) if no '
    'checkpoints are given; published are fully trained ones. Distilled is the bottleneck\'s mean, not the '
    'encoder\'s output (the same where the bottleneck is the identity): a frozen encoder has nothing '
    'to learn. Same constant as BalanceBenchmark where it is called alpha.',
)
method_model = dict(
    losses=[dict(type='FusedCrossEntropy'), dict(type='TeacherDistillation', weight=10.0)],
)
method_optim_wrapper = dict()
method_hooks = [dict(type='TeacherHook', epochs=5)]
