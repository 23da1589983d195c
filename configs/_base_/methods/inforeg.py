# InfoReg: the dominant modality is held near where the epoch began while information flows in.
method = dict(
    title='InfoReg',
    acts_on='gradients of the dominant modality\'s encoder, once per update, and loss',
    formula='K = relative change of the Fisher trace over epochs; while K > .05: g_m += .95 exp(tanh(dS)) (theta_m - theta_m at the start of the epoch) for '
    'the m with the largest S_m = sum p_m(label); L = CE + sum_m CE(u_m)',
    source='Huang et al., CVPR 2025 (arXiv 2503.18595); public code GeWu-Lab/InfoReg_CVPR2025',
    modalities='M >= 2',
    splits='exact',
    differences='The public code regulates audio by name (its branch for the visual modality repeats the same condition and cannot be reached), with the '
    "audio encoder's trace and a threshold of .04; here it is whichever modality is dominant, by its own trace. S is summed over "
    'its batch of 64; here batch=64 times the mean, so that the strength depends on no split. M > 2: dS is the distance to the mean of the others (ours).',
)
method_model = dict(
    unimodal_head=dict(type='LinearHead'),
    losses=[dict(type='FusedCrossEntropy'), dict(type='UnimodalCrossEntropy', weight=1.0)],
)
method_optim_wrapper = dict(
    type='CALOptimWrapper',
    modulator=dict(type='InfoReg', beta=0.95, threshold=0.05, window=10),
    apply_to='gradient',
)
