# A late-fusion transformer: the strong plain baseline.
method = dict(
    title='Late-fusion transformer',
    acts_on='fusion',
    formula='CE(y), y = head(class token of a 4-layer pre-norm encoder over 4 tokens per modality)',
    source='a plain baseline; encoder: Vaswani et al., NeurIPS 2017 (arXiv 1706.03762)',
    modalities='M >= 1',
    splits='exact',
    differences='None: it is no published method.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='TransformerFusion'),
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict()
