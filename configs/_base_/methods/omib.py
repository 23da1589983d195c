# OMIB: two bottlenecks whose relative strength follows the predictions.
method = dict(
    title='OMIB',
    acts_on='features: a variational bottleneck per modality',
    formula='CE(y) + sum CE(u_m) + beta (KL_1 + r KL_2), r = 1 - tanh(log mean KL(p_2 || p) / KL(p_1 || p)); '
    'beta <= 1 / ((1 + r)(H(v_1) + H(v_2) - I(v_1; v_2)))',
    source='Wu et al., ICML 2025 (arXiv 2505.19996)',
    modalities='M = 2',
    splits='all but exact: weights to 5e-6, the booked ratio of small divergences to 1e-6 of itself',
    differences='No public code; formulas from summaries of the paper. The predictions p_m are the unimodal '
    'heads\' (paper: decoders of fused and unimodal features together). The entropies of the bound are not '
    'estimated (paper: MINE): beta is given, entropies=... caps it. Fusion is the config\'s (paper: '
    'cross-attention), without the warm-up stage.',
)
method_model = dict(
    bottleneck=dict(type='VariationalBottleneck'),
    unimodal_head=dict(type='LinearHead'),
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=1.0),
        dict(type='OptimalBottleneckLoss', beta=1e-3),
    ],
)
method_optim_wrapper = dict()
