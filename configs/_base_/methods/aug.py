# AUG: the weaker modality's classifier grows by blocks that fit what the others leave.
method = dict(
    title='AUG',
    acts_on='model (heads that grow) and loss',
    formula='u_m = sum of blocks(z_m), y = mean u_m; CE(y) + sum_m [CE(u_m) + mean (1 - lambda p_rest(label)) '
    'CE(newest block)]; every tenth of the run the modality with the lowest mean p(label) gets a block',
    source='Jiang et al., NeurIPS 2025 ("... Mitigating Classification Ability Disproportion")',
    modalities='M >= 1',
    splits='exact',
    differences='No public code was found: a reading. Residual labels are taken as weights of the true class, '
    'lambda, block width and tolerance are ours. All blocks exist from the start and idle ones take no '
    'part, so that a resumed run goes on exactly; weight decay, where there is one, acts on idle ones.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='BoostedFusion', hidden_channels=64, blocks=10),
    losses=[dict(type='FusedCrossEntropy'), dict(type='BoostingLoss', residual=0.33)],
)
method_optim_wrapper = dict()
method_hooks = [dict(type='GrowthHook', interval=0.1)]
