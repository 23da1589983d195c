# ETMC: TMC with one more view, the concatenated features.
method = dict(
    title='ETMC',
    acts_on='decision',
    formula='e = softplus(l), alpha = e + 1, S = sum alpha, b = e / S, u = C / S; Dempster over the '
    'modalities, and the view of all features side by side; L = sum over the views and the combination of psi(S) - psi(alpha_y) + '
    'min(1, t / T) KL(Dir(e (1 - y) + 1) || Dir(1))',
    source='Han et al., TPAMI 2022 (arXiv 2204.11423)',
    modalities='M >= 1',
    splits='exact',
    differences='The combination is computed as 1 + e / C = prod_m (1 + e_m / C), which the rule amounts to; the public '
    "code divides by 1 - K. TMC's code counts the epoch t from 1 with T = 50 of 500 epochs, ETMC's from 0 with T = 10; "
    'here from 0 with T = 10. The logits are log(alpha / S): softmax gives the expected probabilities. The joint view of a sample with absent modalities sees zeros in their place (ours).',
)
method_model = dict(
    fusion=dict(_delete_=True, type='EvidentialFusion', joint_view=True),
    unimodal_head='fusion',
    losses=[dict(type='EvidentialLoss', annealing_epochs=10)],
)
method_optim_wrapper = dict()
