# OPM: features of the dominant modality are dropped at random in training.
method = dict(
    title='OPM',
    acts_on='features between bottleneck and fusion, in training',
    formula='rho_m = S_m / mean S_others; q_m = q_base (1 + lambda tanh(relu(rho_m - 1))) if rho_m > 1, '
    'else 0; with probability p_exe: z_m <- z_m Bernoulli(1 - q_m) / (1 - theta), '
    'theta = sum D_m q_m / sum D_m',
    source='Wei, Hu et al., IEEE TPAMI 2024',
    modalities='M >= 2',
    splits='exact; q follows from the scores of the update before',
    differences='The public code takes the scores of the micro-batch at hand; ours of the update before, '
    'and decides once per update whether anything is dropped. As the public code we drop a whole '
    'sample\'s feature (drop="dimension" drops dimensions). The public code takes samples that lost '
    'every modality out of the batch; ours lets them keep theirs (cannot happen for M = 2). M > 2: '
    'rho against the mean of the others (BalanceBenchmark: their sum).',
)
method_model = dict(
    unimodal_head='fusion',
    feature_transforms=[dict(type='OPM', q_base=0.4, strength=0.5, p_exe=0.7)],
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict()
