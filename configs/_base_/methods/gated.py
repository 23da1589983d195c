# Joint training with a gated multimodal unit.
method = dict(
    title='Gated fusion',
    acts_on='fusion',
    formula='CE(y), y = head(sum_m g_m tanh(W_m z_m)), g = softmax over the modalities',
    source='a plain baseline; gated unit: Arevalo et al., 2017 (arXiv 1702.01992)',
    modalities='M >= 1',
    splits='exact',
    differences="Public audio-visual code multiplies one modality's features by the sigmoid of the other's (M = 2, one side gates); here the gated multimodal unit, whose softmax over the modalities holds for any M.",
)
method_model = dict(
    fusion=dict(_delete_=True, type='GatedFusion'),
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict()
