# MLA: the modalities take turns at a shared head, whose gradient is projected.
method = dict(
    title='MLA',
    acts_on='order of the steps, gradient of the shared head, decision',
    formula='per modality: CE(head(z_m)), k = P r with r = mean z_m, P <- P - k k^T / (alpha + k.r), alpha = .1^(1 + b/B), '
    'P <- P / |P|_F, g_W <- g_W P^T, step; y = sum_m w_m head(z_m), w_m prop. to exp(H_max - H_m)',
    source='Zhang et al., CVPR 2024 (arXiv 2311.10707); public code Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation',
    modalities='M >= 1, of one width',
    splits='exact; with accumulation the graphs of all micro-batches are kept until the update',
    differences='The public code divides k k^T by a matrix, alpha + k r^T, element by element; the formula has the scalar alpha + k.r, which is '
    'used here. It looks for a parameter called module.weight, so without DataParallel around the head nothing is projected (the version in BalanceBenchmark does project, but adds the result to the plain gradient); and its test-time entropy '
    'is taken with a softmax over the batch instead of the classes. Its r is the mean of one rank; here of all. As there, the first step of a run is not '
    'projected, P starts at the identity and its Frobenius norm is 1 from then on, which with SGD also makes the head learn slower. Published with SGD: Adam and its kin scale the projected '
    'gradient element by element, after which the step is only nearly in the range of P.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='SharedHeadFusion', weights='entropy'),
    unimodal_head='fusion',
    losses=[dict(type='UnimodalCrossEntropy', weight=1.0)],
)
method_optim_wrapper = dict(type='AlternatingOptimWrapper')
