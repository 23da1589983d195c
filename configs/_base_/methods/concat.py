# Plain joint training: one cross-entropy on the fused logits.
method = dict(
    title='Joint training',
    acts_on='nothing',
    formula='CE(y)',
    source='the plain baseline',
    modalities='M >= 1',
    splits='exact',
    differences='None.',
)
method_model = dict(losses=[dict(type='FusedCrossEntropy')])
method_optim_wrapper = dict()
