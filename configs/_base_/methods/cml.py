# CML: the confidence must not grow when a modality is taken away.
method = dict(
    title='CML',
    acts_on='loss',
    formula='1/M sum_k CE(S_k) + lambda sum_k mean relu(conf(S_k+1) - conf(S_k)) along a random chain '
    'S_0 = all, S_k+1 = S_k without one modality; conf = max softmax',
    source='Ma et al., ICML 2023 (arXiv 2306.01265)',
    modalities='M >= 2',
    splits='exact; the chain is drawn once per update',
    differences='The ranking is per sample, as in the paper; BalanceBenchmark takes relu of the batch\'s sum '
    'and computes a mask of "wrong without" samples that it then ignores. lambda = .1 is ours.',
)
method_model = dict(losses=[dict(type='ConfidenceOrder', weight=0.1)])
method_optim_wrapper = dict()
