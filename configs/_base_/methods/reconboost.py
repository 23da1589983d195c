# ReconBoost: one modality learns at a time, on what the others leave to it; then all together.
method = dict(
    title='ReconBoost',
    acts_on='loss and which parameters are stepped, by the epoch',
    formula='turn of m: L = -(5 - p_rest(label)) log p_m(label) / C, p_rest the softmax of the others\' summed logits, only m is stepped; after each turn CE of the '
    'sum for all that have had a turn; momenta start anew at every change',
    source='Hua et al., ICML 2024 (arXiv 2405.09321); public code huacong/ReconBoost',
    modalities='M >= 1',
    splits='exact',
    differences='Weights 5 and 1 and the missing rest counted as 1 in the first turn as in the public code. There the agreement term (MSE between two predictions, weight .5) is '
    'taken between detached tensors, so it has no gradient; here it is off by default and has one if switched on (align). That code shares a head with a '
    'hidden layer and a learned boosting rate between the modalities and may start from trained unimodal models; here every modality has its own linear head and the '
    'rate is 1. Turns and common training take 4 epochs there; 1 here, 4 in the shipped CREMA-D config. At test all modalities are summed, also those that '
    'have not had a turn.',
)
method_model = dict(
    fusion=dict(_delete_=True, type='SumFusion'),
    unimodal_head='fusion',
    losses=[dict(type='ReconBoostLoss', stage_epochs=1, correct_epochs=1)],
)
method_optim_wrapper = dict(type='StagedOptimWrapper')
