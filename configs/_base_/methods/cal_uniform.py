# Control for CAL: the same bottlenecks, every modality compressed alike.
method = dict(
    title='Uniform bottleneck (VIB)',
    acts_on='bottlenecks',
    formula='L + beta sum_m KL_m with one beta for all',
    source='control of CAL; with unimodal losses. VIB: Alemi et al., ICLR 2017 (arXiv 1612.00410)',
    modalities='M >= 1',
    splits='exact',
    differences='CAL against this is the ablation that matters.',
)
method_model = dict(
    bottleneck=dict(type='VariationalBottleneck'),
    unimodal_head=dict(type='LinearHead'),
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=1.0),
        dict(type='AIBLoss', beta=2e-2, rule='uniform', warmup=0.25),
    ],
)
method_optim_wrapper = dict(type='CALOptimWrapper')
