# AGM: the logits are a sum of the modalities' Shapley shares, and the gradient of each share is scaled.
method = dict(
    title='AGM',
    acts_on='gradient of each modality\'s share of the logits',
    formula='y = sum phi_m with phi_m the Shapley value of m in the logits (M = 2: phi_a = (f(a,v) - f(0,v) + f(a,0)) / 2); s_m = mean CE(phi_m); '
    'r_m = exp(M / (M - 1) (mean s - s_m)), tau_m the same of the running means of s; gradient through phi_m times '
    'exp(alpha min(tau_m - r_m, cap))',
    source='Li et al., ICCV 2023 (arXiv 2308.07686); public code lihong2303/AGM',
    modalities='M >= 1, M = 1 is the plain loss; 2^M - 2 evaluations of the fusion',
    splits='not exact for micro-batches: s_m must be known in the forward pass, so r_m is the mean over the micro-batches so far; '
    'exact over ranks',
    differences='As the public code: the value of no modality is 0, so that the shares sum to the logits; masked passes in evaluation mode, with their '
    'gradients; r of the present batch against the mean of all batches before; probabilities of 1e-8 at least. That code masks the inputs and runs '
    'every encoder again for each coalition; here features are masked after the encoders, so an absent modality is the '
    "fusion's absent value and not an encoder's answer to zeros. Its cap is 10 for two and 7 for three modalities (here cap=10), and it "
    "clips the norm to 1 (5) when an entry of the head's gradient exceeds that; here clipping is the schedule's. BalanceBenchmark's AGM inverts the ratios, scales whole "
    'encoders instead of the shares and computes coalitions without gradient.',
)
method_model = dict(losses=[dict(type='AdaptiveGradientModulation', alpha=1.0, cap=10.0)])
method_optim_wrapper = dict()
