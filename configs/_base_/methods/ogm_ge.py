# OGM-GE: the gradient of the dominant modality is damped, noise keeps its generalisation.
method = dict(
    title='OGM-GE',
    acts_on='gradients of the encoders, once per update',
    formula='rho_m = S_m / min S with S_m = mean p_m(label); k_m = 1 - tanh(alpha rho_m) if rho_m > 1, '
    'else 1; g_m <- k_m g_m + N(0, std g_m)',
    source='Peng et al., CVPR 2022 (arXiv 2203.15332)',
    modalities='M >= 2',
    splits='exact; the noise is drawn once per update',
    differences='For M > 2 the weakest modality is the reference (ours). The public code computes S per '
    "micro-batch and rank, halves the concat head's bias by hand for two modalities, and modulates "
    'kernels of convolutions only; here S covers the whole update and u_m is the head\'s own share.',
)
method_model = dict(
    unimodal_head='fusion',
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict(
    type='CALOptimWrapper',
    modulator=dict(type='OGM', alpha=0.8, noise=True),
    apply_to='gradient',
)
