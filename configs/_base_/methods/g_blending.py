# G-Blending: every head's loss weighs as much as the head generalises, measured by short trainings.
method = dict(
    title='G-Blending',
    acts_on='loss, with weights measured once per super-epoch',
    formula='w_k prop. to |dG_k| / dO_k^2 over a short training of each head, O = L_val - L_train, '
    'dG = change of L_val; L = w_0 CE(y) + sum w_m CE(u_m), sum w = 1',
    source='Wang, Tran and Feiszli, CVPR 2020 (arXiv 1905.12681)',
    modalities='M >= 2',
    splits='exact',
    differences='The short training has as many updates as one epoch (updates=...), not a whole super-epoch, '
    'and the modalities, which share no parameter, are trained in one copy. Held out is a fifth of the '
    'training groups, as in the paper; BalanceBenchmark measures on its test loader. |dO| is at least '
    '1e-3 nats (ours), and both losses are measured on equally many samples. The published super-epoch of 5 of 45 epochs is a tenth of the run here. '
    'Cost outside the step: two short trainings and three measurements each time; with a super-epoch of two epochs a run takes about '
    'twice as long as joint training (74 against 38 s, digits_av with 600 samples). The offline form of the paper, weights from one pair of whole trainings, is no cheaper.',
)
method_model = dict(
    unimodal_head=dict(type='LinearHead'),
    losses=[dict(type='BlendedCrossEntropy')],
)
method_optim_wrapper = dict()
method_hooks = [dict(type='GBlendingHook', super_epoch=0.1, share=0.2)]
