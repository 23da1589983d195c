# VIB: every modality's bottleneck has the same strength: the control for CAL's asymmetric one.
method = dict(
    title='VIB',
    acts_on='features: a variational bottleneck per modality',
    formula='z_m ~ N(mu_m, diag sigma_m^2); L = CE(y) + beta sum_m KL(q(z_m | x_m) || N(0, I)), beta = 1e-3',
    source='Alemi et al., "Deep Variational Information Bottleneck", ICLR 2017 (arXiv 1612.00410)',
    modalities='M >= 1',
    splits='exact',
    differences='The paper has one input; here each modality has its bottleneck and the head is the '
    'fusion. The prediction uses the means, not draws.',
)
method_model = dict(
    bottleneck=dict(type='VariationalBottleneck'),
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='AIBLoss', beta=1e-3, rule='uniform', warmup=0.0),
    ],
)
method_optim_wrapper = dict()
