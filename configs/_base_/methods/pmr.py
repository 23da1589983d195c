# PMR: the weaker modality is also trained to sit near its own class prototypes.
method = dict(
    title='PMR',
    acts_on='loss, with class prototypes measured before every epoch',
    formula='c_k^m = mean z_m of class k over 10 % of train, c <- mu c_old + (1 - mu) c_new; '
    'L = CE(y) + alpha CE(softmax(-|z_m - c^m|)) for the weaker m alone, weaker by '
    'S_m = mean p_m^proto(label)',
    source='Fan et al., CVPR 2023 (arXiv 2211.07089)',
    modalities='M >= 2',
    splits='exact; who is weaker is decided by the update before',
    differences='The paper weighs the loss by clip(max S / S_m - 1, 0, 1) (coefficient="gap"), the public '
    'code by a constant (our default), with mu = .2 and no average before the second epoch; its entropy term of the first epochs (PER) is in neither. The '
    'public code decides per micro-batch and takes the first batches of a shuffled loader for the '
    'prototypes; ours decides by the update before and draws the share by (seed, epoch). M > 2: the '
    'weakest modality alone (ours).',
)
method_model = dict(
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='PrototypeRebalance', alpha=1.0, coefficient='constant', momentum=0.2),
    ],
)
method_optim_wrapper = dict()
method_hooks = [dict(type='PrototypeHook', share=0.1)]
