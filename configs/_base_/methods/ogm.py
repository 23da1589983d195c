# OGM: the gradient of the dominant modality is damped.
method = dict(
    title='OGM',
    acts_on='gradients of the encoders, once per update',
    formula='rho_m = S_m / min S with S_m = mean p_m(label); k_m = 1 - tanh(alpha rho_m) if rho_m > 1, '
    'else 1; g_m <- k_m g_m',
    source='Peng et al., CVPR 2022 (arXiv 2203.15332); public code GeWu-Lab/OGM-GE_CVPR2022',
    modalities='M >= 2',
    splits='exact',
    differences='OGM-GE without its noise; see there. For M = 2 the factors are those of the public code, except where both scores are '
    'equal: there it damps the first modality, here nobody is dominant. It sums S over its batch, here S is the mean over the whole '
    'update and over the samples that have the modality. Modulation stops half way through the run, as there. Under Adam and its kin k acts on the step (apply_to=\'auto\'), for they cancel it in the gradient.',
)
method_model = dict(
    unimodal_head='fusion',
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict(
    type='CALOptimWrapper',
    modulator=dict(type='OGM', alpha=0.8, noise=False, end=0.5),
    apply_to='auto',
)
