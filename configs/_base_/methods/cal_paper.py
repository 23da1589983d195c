# CAL as the abstract describes it: W from the running training batches, bottlenecks of fixed sum, acceleration on.
# Reconstruction of arXiv 2510.26289; a control beside the default preset `cal`.
method = dict(
    title='CAL as the abstract has it',
    acts_on='gradients of the encoders, bottlenecks',
    formula='W from the running training batches; g_m <- (1 + gamma W_m) g_m; beta_m = beta M / (M - 1) (1 - W_m)',
    source='arXiv 2510.26289, our reconstruction: its equations are not public',
    modalities='M >= 1',
    splits='exact',
    differences='See methods/cal.md.',
)
method_model = dict(
    bottleneck=dict(type='VariationalBottleneck'),
    unimodal_head=dict(type='LinearHead'),
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=1.0),
        dict(type='AIBLoss', beta=1e-2, rule='fixed_sum', beta_min=1e-3, warmup=0.25),
    ],
    contribution=dict(
        source='train',
        information=dict(type='ShapleyInformation'),
        confidence=dict(type='Confidence', kind='entropy'),
        lam=0.5,
        tau=0.5,
        momentum=0.9,
        typicality=dict(),
    ),
)
method_optim_wrapper = dict(
    type='CALOptimWrapper',
    modulator=dict(type='AsymmetricAcceleration', gamma=1.0, mode='all', begin=0.1),
)
