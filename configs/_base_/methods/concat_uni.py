# Joint training with unimodal losses: the control that CAL has to beat at the same eta.
method = dict(
    title='Joint training with unimodal losses',
    acts_on='loss',
    formula='CE(y) + eta sum_m CE(u_m)',
    source='the control of every balancing method',
    modalities='M >= 1',
    splits='exact',
    differences='None.',
)
method_model = dict(
    unimodal_head=dict(type='LinearHead'),
    losses=[dict(type='FusedCrossEntropy'), dict(type='UnimodalCrossEntropy', weight=1.0)],
)
method_optim_wrapper = dict()
