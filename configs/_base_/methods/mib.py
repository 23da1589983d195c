# MIB (complete): a bottleneck per modality and one on all of them together.
method = dict(
    title='MIB',
    acts_on='features: variational bottlenecks before and after fusion',
    formula='CE(y) + beta sum_m KL(q(z_m | x_m) || N(0, I)) + beta KL(q(t | z) || N(0, I)), beta = 1e-3',
    source='Mai, Zeng and Hu, IEEE TMM 2022 (arXiv 2210.17444)',
    modalities='M >= 1',
    splits='exact',
    differences='The variant with both kinds of bottleneck (C-MIB). Not checked against public code; the paper '
    'also predicts from each modality, left out here. '
    'Fusion before the joint bottleneck is concatenation.',
)
method_model = dict(
    bottleneck=dict(type='VariationalBottleneck'),
    fusion=dict(_delete_=True, type='JointBottleneckFusion', out_channels=64),
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='AIBLoss', beta=1e-3, rule='uniform', warmup=0.0),
        dict(type='JointBottleneckLoss', beta=1e-3),
    ],
)
method_optim_wrapper = dict()
