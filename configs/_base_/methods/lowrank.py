# Joint training with low-rank tensor fusion.
method = dict(
    title='Low-rank tensor fusion',
    acts_on='fusion',
    formula='CE(y), y = b + mean_r prod_m A_m^r [z_m; 1]',
    source='a plain baseline; Liu et al., ACL 2018 (arXiv 1806.00064)',
    modalities='M >= 1',
    splits='exact',
    differences='The paper weights the ranks by learned numbers and sums; here their mean, and factors that start near one.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='LowRankTensorFusion'),
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict()
