# CAL, the default preset: W measured out of fold before training, floor rule for the bottlenecks.
# Reconstruction of arXiv 2510.26289; docs/methods/cal.md says what is ours.
method = dict(
    title='CAL',
    acts_on='bottlenecks (and gradients with gamma > 0)',
    formula='W = softmax((lambda I + (1 - lambda) D) / tau) measured out of fold; beta_m rises where I_m is low (floor rule); g_m <- (1 + gamma W_m) g_m',
    source='arXiv 2510.26289, our reconstruction: its equations are not public',
    modalities='M >= 1',
    splits='exact',
    differences='See methods/cal.md: every choice is ours, the default gamma is 0.',
)
method_model = dict(
    bottleneck=dict(type='VariationalBottleneck'),
    unimodal_head=dict(type='LinearHead'),
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=1.0),
        dict(type='AIBLoss', beta=2e-2, rule='floor', alpha=9.0, pivot=0.2, warmup=0.25),
    ],
    contribution=dict(
        # 'ridge' for frozen encoders and features
        source='pilot',
        information=dict(type='ShapleyInformation'),
        confidence=dict(type='Confidence', kind='entropy'),
        lam=0.5,
        tau=0.15,
        typicality=dict(),
    ),
)
method_optim_wrapper = dict(
    type='CALOptimWrapper', modulator=dict(type='AsymmetricAcceleration', gamma=0.0)
)
