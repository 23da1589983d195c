# Joint training with FiLM fusion.
method = dict(
    title='FiLM fusion',
    acts_on='fusion',
    formula='CE(y), y = head(mean_m [(1 + gamma_m) P_m z_m + delta_m]), gamma_m and delta_m linear in the other modalities',
    source='a plain baseline; FiLM: Perez et al., AAAI 2018 (arXiv 1709.07871)',
    modalities='M >= 1',
    splits='exact',
    differences='Public audio-visual code lets one modality modulate the other without the 1 +; here every modality is modulated by the others, for any M.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='FiLMFusion'),
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict()
