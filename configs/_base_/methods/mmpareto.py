# MMPareto: where an encoder's fused and unimodal gradients conflict, their shortest combination.
method = dict(
    title='MMPareto',
    acts_on='gradients of the encoders (owns the step)',
    formula='g_f, g_u: gradients of the fused and of the unimodal loss. cos(g_f, g_u) > 0: weights (1/2, 1/2), else '
    'argmin |a g_f + (1 - a) g_u|; h = 2 a g_f + 2 (1 - a) g_u; each tensor <- gamma max(1, |g_f + g_u| / |h|) h',
    source='Wei and Hu, ICML 2024 (arXiv 2405.17730); public code GeWu-Lab/MMPareto_ICML2024',
    modalities='M >= 1',
    splits='exact',
    differences='As the public code: cosine and weights over the whole encoder, the stretch per tensor, gamma 1.5 on every '
    'tensor of the encoders, heads and fusion get the plain sum. That code finds an encoder by words in the names of its parameters and '
    'runs four backward passes per batch; here two are enough, because a unimodal loss reaches only its own '
    'encoder, and encoders are known by ownership (bottlenecks count as part of them). For M > 2 each encoder is treated alike. Published with SGD and momentum; Adam and its kin cancel gamma, '
    'so that there the direction in a conflict is what differs from concat_uni.',
)
method_model = dict(
    unimodal_head=dict(type='LinearHead'),
    losses=[dict(type='FusedCrossEntropy'), dict(type='UnimodalCrossEntropy', weight=1.0)],
)
method_optim_wrapper = dict(type='ParetoOptimWrapper', gamma=1.5)
