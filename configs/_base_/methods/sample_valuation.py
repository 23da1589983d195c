# Sample-level valuation: samples in which a modality contributes little are seen more often.
method = dict(
    title='Sample-level valuation',
    acts_on='data: how often a sample is drawn, valued before every epoch from the second on',
    formula='v(S) = |S| if the prediction from S is right, else 0; phi_im = Shapley value on sample i; weight '
    '1 + sum_m n(phi_im), n = 0 from 1 on, 1 from .4, 2 from -.1, else 3',
    source='Wei et al., CVPR 2024 (arXiv 2309.06255)',
    modalities='M >= 2',
    splits='exact',
    differences='BalanceBenchmark appends copies in which the other modalities are zeroed, so its epochs grow; '
    'ours keeps their length, draws whole samples in proportion to the weights and zeroes nothing. Its '
    'thresholds leave out phi = .4 and -.1 themselves. Modality-level resampling is left out.',
)
method_model = dict(losses=[dict(type='FusedCrossEntropy')])
method_optim_wrapper = dict()
method_hooks = [dict(type='SampleValuationHook', begin=1)]
method_train_dataloader = dict(sampler=dict(_delete_=True, type='ValuedSampler'))
