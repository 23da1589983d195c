# Greedy (balanced conditional utilisation): a modality that leans on the others learns alone for a while.
method = dict(
    title='Greedy',
    acts_on='features (a transfer module whose gates are frozen for one modality), decided once per update',
    formula='z_m <- z_m sigmoid(E_m relu(S [z_1, ..., z_M])); speed of m: log10(sum |g|^2 / |theta|^2 of S, E_m over that of the encoder); '
    'largest - smallest > eps: the gates of the largest are their running mean for the next Q updates',
    source='Wu et al., ICML 2022 (arXiv 2202.05306); public code nyukat/greedy_multimodal_learning',
    modalities='M >= 2',
    splits='exact',
    differences='The public code has transfer modules (MMTM) after three stages of two ResNets; here one sits on the feature vectors, so that it works with any '
    'encoder, and the fusion is the mean of the heads as there. It adds the modality\'s head to its encoder; here encoder and bottleneck only. Its running mean of '
    'the second modality\'s gates is fed with the first one\'s, runs in evaluation too and counts the present batch; here each has its own, over whole '
    'updates of training. Defaults as there (eps .01, Q 5); it starts in epoch 2 (begin; the shipped CREMA-D config has it). M > 2: largest against smallest (ours).',
)
method_model = dict(
    feature_transforms=[dict(type='MMTM', ratio=4.0)],
    fusion=dict(_delete_=True, type='LateFusion', average='logits'),
    losses=[dict(type='FusedCrossEntropy')],
)
method_optim_wrapper = dict(type='BalancedSpeedOptimWrapper', epsilon=0.01, window=5)
