# MMCosine: no modality dominates by the length of its features or weights.
method = dict(
    title='MMCosine',
    acts_on='head',
    formula='CE(y), y = s sum_m cos(z_m, W_m)',
    source='Xu et al., ICASSP 2023 (arXiv 2303.05338)',
    modalities='M >= 1',
    splits='exact',
    differences='The public code sets s = 10 unless told otherwise, here 15. Its concat layer keeps a bias that the '
    'cosine form never uses; here there is none. It can add a contrastive loss between the modalities (weight 0 '
    'unless told otherwise), which is left out.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='MMCosineFusion', scale=15.0),
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict()
