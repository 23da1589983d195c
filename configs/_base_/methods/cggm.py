# CGGM: encoders whose auxiliary classifier improves fast are held back; directions are aligned.
method = dict(
    title='CGGM',
    acts_on='gradients of the encoders, once per update, and loss',
    formula='delta_m = change of the auxiliary classifier\'s accuracy since the update before; B_m = (sum delta - delta_m) / sum delta; '
    'g_m <- 1.3 B_m g_m; L = CE + .2 (sum |B_m| - sum B_m cos(u_m, u)) / M with u the gradient of a cross-entropy by its logits',
    source='Guo et al., NeurIPS 2024 (arXiv 2411.01409); public code zrguo/CGGM',
    modalities='M >= 2',
    splits='exact; the loss takes B of the update before, as the public code does',
    differences='Accuracies of batches fall as often as they rise; then the quotient of the public code turns negative (the encoder climbs its loss) or '
    'explodes and is left to gradient clipping. Here B is kept in [0, 1], its range where everything improves, and is (M - 1) / M for all without a net '
    'improvement. The public code takes the cosine of the output layers\' weights, although its names say gradients, and with the values '
    'of the step before; here it is the cosine of the gradients by the logits, per sample and differentiable. Its auxiliary classifiers are small '
    'transformers with an optimiser of their own; here they are the unimodal heads on detached features.',
)
method_model = dict(
    unimodal_head=dict(type='LinearHead'),
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=0.0),
        dict(type='DirectionAlignment', weight=0.2),
    ],
)
method_optim_wrapper = dict(
    type='CALOptimWrapper',
    modulator=dict(type='CGGM', rho=1.3),
    apply_to='auto',
)
