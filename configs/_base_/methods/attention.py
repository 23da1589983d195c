# Joint training with a small attention over one token per modality.
method = dict(
    title='Attention fusion',
    acts_on='fusion',
    formula='CE(y), y = head(class token of a 2-layer pre-norm encoder over one token per modality)',
    source='a plain baseline',
    modalities='M >= 1',
    splits='exact',
    differences='None.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='AttentionFusion'),
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict()
