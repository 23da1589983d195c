# LFM: classification and alignment of the modalities, with a weight that adapts.
method = dict(
    title='LFM',
    acts_on='loss, with a weight measured before every epoch',
    formula='2 (1 - a) CE(y) + 2 a mean over pairs JS(p_a, p_b); before each epoch '
    'a <- clip(a + eta (cos(g_held, g_align) - cos(g_held, g_class)), .05, .95)',
    source='Yang et al., "Facilitating Multimodal Classification via Dynamically Learning Modality Gap", '
    'NeurIPS 2024',
    modalities='M >= 2',
    splits='exact',
    differences='A reading: alignment and the adaptive weight are those of BalanceBenchmark in spirit. There a '
    'follows the mean entry of the first parameter\'s Hessian-vector product on a quarter of one validation '
    'batch; ours is the first-order derivative of the loss on held-out training groups after a step, with '
    'norms divided out. The paper\'s contrastive alignment is left out.',
)
method_model = dict(
    unimodal_head='fusion',
    losses=[dict(type='GapAlignment', alignment=0.05)],
)
method_optim_wrapper = dict()
method_hooks = [dict(type='AlignmentWeightHook', rate=0.05)]
