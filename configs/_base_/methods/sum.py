# Joint training with a sum of heads: the linear form of score-level fusion.
method = dict(
    title='Sum fusion',
    acts_on='fusion',
    formula='CE(y), y = sum_m head_m(z_m)',
    source='a plain baseline',
    modalities='M >= 1',
    splits='exact',
    differences='None: with linear heads the same function as concat, with M biases for one.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='SumFusion'),
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict()
