# AMCo: the modality that the prediction depends on is masked, more and more within an epoch.
method = dict(
    title='AMCo',
    acts_on='features between bottleneck and fusion, in training; unimodal losses',
    formula='share_m = mean sum_c softmax([u_1 ... u_M])_mc; if max share >= sigma: int(p D) dimensions of '
    'that z_m are zeroed and the rest divided by max(1 - p, .1), p = sin(pi/2 min(l, L) / L), '
    'l = updates of the epoch * epoch / 10; L = CE(y) + sum CE(u_m)',
    source='Zhou et al., ICASSP 2023; formulas as re-implemented in BalanceBenchmark',
    modalities='M >= 2',
    splits='exact; the dependence is that of the update before',
    differences='The original code was not found: formulas are those of BalanceBenchmark. There a modality '
    'once found dependent stays so until the epoch ends and the order of the modalities breaks ties; '
    'ours looks at the update before. sigma and L are ours (not published there).',
)
method_model = dict(
    unimodal_head='fusion',
    feature_transforms=[dict(type='AMCo', threshold=0.6, length=500.0)],
    losses=[dict(type='FusedCrossEntropy'), dict(type='UnimodalCrossEntropy', weight=1.0)],
)
method_optim_wrapper = dict()
