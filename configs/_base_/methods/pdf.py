# PDF: decisions weighted by predicted confidences, calibrated at test time.
method = dict(
    title='PDF',
    acts_on='decision',
    formula='y = sum_m w_m l_m, w = softmax(k_m (p_m + holo_m)), p_m = sigmoid ConfidNet(z_m detached), '
    'holo_m = sum_{j != m} log p_j / sum_j log p_j; k_m = 1 in training, then min(1, DU_m / DU_other), '
    'DU = mean |softmax(l) - 1/C|; L = CE(y) + sum_m CE(l_m) + sum_m |p_m - softmax(l_m)[label]|',
    source='Cao et al., ICML 2024 (arXiv 2406.04802)',
    modalities='M >= 1',
    splits='exact',
    differences='The public code has two modalities; for more the sums over the others and their mean DU are ours. It '
    'validates without k_m and tests with it; here every evaluation has it (calibrate=False: none). It adds 1e-8 to the '
    'sum of logs, here 0 / 0 counts as 0. Its ConfidNets are three linear layers without activations, kept '
    "(activation='relu' adds them), on the encoders' features; here on z, what enters fusion. Its weight decay on two of "
    'the ConfidNet layers only is left to paramwise_cfg.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='PDFFusion'),
    unimodal_head='fusion',
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=1.0),
        dict(type='TrueClassConfidence', weight=1.0),
    ],
)
method_optim_wrapper = dict()
