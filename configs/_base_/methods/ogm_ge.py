# OGM-GE: the gradient of the dominant modality is damped, noise keeps its generalisation.
method = dict(
    title='OGM-GE',
    acts_on='gradients of the encoders, once per update',
    formula='rho_m = S_m / min S with S_m = mean p_m(label); k_m = 1 - tanh(alpha rho_m) if rho_m > 1, '
    'else 1; g_m <- k_m g_m + N(0, std g_m)',
    source='Peng et al., CVPR 2022 (arXiv 2203.15332)',
    modalities='M >= 2',
    splits='exact; the noise is drawn once per update',
    differences="As the public code for M = 2: u_m is the head's own share W^m z^m + b / 2, the noise is as wide as the gradient was before the factor and "
    'reaches both modalities, kernels of convolutions only (all parameters of a modality that has none). '
    'Where a model has some millions of these, tensors read random stretches of one pool of draws (independent within a tensor), which spares most of the drawing. That code sums S per micro-batch and rank; here it is the mean over the whole update and '
    'over the samples that have the modality. With equal scores it damps the first modality, here nobody. Modulation and noise stop half way through the run, as there (epochs 0 to 50 '
    'of 100; 50 is included there, not here). The rest of its setting is SGD at 1e-3 with momentum, alpha from .1 to .8, no clipping: the schedule is the config\'s. '
    'At alpha = .8 a damped gradient has a factor of at most .34, so its noise is at least three times as wide as it is: without the end training does not settle '
    '(digits_av, 600 samples, AdamW: 81 % instead of 85). '
    'For M > 2 the weakest modality is the reference (ours); the three-modality variant in the code of MLA compares each with the sum of the others.',
)
method_model = dict(
    unimodal_head='fusion',
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict(
    type='CALOptimWrapper',
    modulator=dict(type='OGM', alpha=0.8, noise=True, end=0.5),
    apply_to='gradient',
)
