# MBSD: the modalities' predictions are distilled into each other.
method = dict(
    title='MBSD',
    acts_on='loss',
    formula='CE(y) + sum CE(u_m) + mean over pairs of 1/2 KL(p_a || p_b) + 1/2 KL(p_b || p_a)',
    source='symmetric distillation between modalities, as in BalanceBenchmark\'s MBSD',
    modalities='M >= 2',
    splits='exact',
    differences='BalanceBenchmark weighs samples by |p_a(label) - p_b(label)| where either is right '
    '(sample_weights="margin" here), adds the mean squared difference of the logits, and its KL term '
    'takes probabilities where torch expects their logarithms; ours is the plain symmetric KL.',
)
method_model = dict(
    unimodal_head='fusion',
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=1.0),
        dict(type='SymmetricDistillation', weight=1.0),
    ],
)
method_optim_wrapper = dict()
