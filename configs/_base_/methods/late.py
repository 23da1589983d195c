# Joint training of averaged decisions.
method = dict(
    title='Late fusion',
    acts_on='fusion',
    formula='CE(y), y = mean of head_m(z_m) over the present modalities',
    source='a plain baseline',
    modalities='M >= 1',
    splits='exact',
    differences="QMF's and PDF's code train their static late fusion with the unimodal losses too; for that add UnimodalCrossEntropy with unimodal_head='fusion'.",
)
method_model = dict(
    fusion=dict(_delete_=True, type='LateFusion'),
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict()
