# QMF: decisions weighted by their energy, confidences ranked by the history of losses.
method = dict(
    title='QMF',
    acts_on='decision',
    formula='y = sum_m c_m l_m, c_m = 0.1 logsumexp(l_m); L = CE(y) + sum_m CE(l_m) + lambda sum_m R_m, '
    'R = mean max(0, t (c_i - c_j) - d) over neighbours i, j of the batch, t = sign(kappa_i - kappa_j), '
    'd = |kappa_i - kappa_j|, kappa the sum of the losses of a sample so far, scaled to [0, 1]',
    source='Zhang et al., ICML 2023 (arXiv 2306.02050)',
    modalities='M >= 1',
    splits='not exact: the pairs are neighbours of a micro-batch on one rank, and kappa holds the micro-batches '
    'before; every rank has the same kappa',
    differences='Where it wants the order of confidences turned round, the public code turns the sign of the margin too, '
    "so that d is slack: this is margin='released', the default; margin='paper' demands the order by d, as the "
    'correctness ranking it builds on (Moon et al., ICML 2020). The code for text and images adds the losses of the '
    'batch to kappa first, sets lambda 1 and stops the gradient of y in c_m (detach=True); the code for RGB-D ranks '
    'before it adds, which divides 0 by 0 in the very first batch, sets lambda 0.1 (NYUD2) or 1 (SUN RGB-D) and keeps '
    'that gradient. Here: add first, lambda 1, gradient kept. The public kappa is lost on resume and covers one process; '
    'here it is in the checkpoint and the same on all ranks. In the first epoch the least kappa is 0, that of the '
    'samples to come; the public code also counts samples that are never drawn.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='QMFFusion', scale=0.1),
    unimodal_head='fusion',
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=1.0),
        dict(type='ConfidenceRanking', weight=1.0, margin='released'),
    ],
)
method_optim_wrapper = dict()
