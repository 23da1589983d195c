# ARL: the encoders' gradients are reinforced in the inverse ratio of the modalities' variances.
method = dict(
    title='ARL',
    acts_on='gradients of the encoders, once per update, and loss',
    formula='q_m = 1 / H(p_m), d_m = p_m(label); a = softmax(T [q_0 / q_1, d_0 / d_1]); g_m <- (1 + a_m) g_m; '
    'L = CE(y) + gamma sum_m CE(s_m), s_m the fused head with the others at their absent value',
    source='Wei, Luo and Luo, ICCV 2025 (arXiv 2507.10203); public code shicaiwei123/ICCV2025-ARL',
    modalities='M = 2: the ratios compare one pair. 0 is the first by name',
    splits='exact; H and d are means over the whole update',
    differences="The paper's form; whether its ratios are of means or per sample could not be checked, here they are ratios of means over the update. The released "
    'code has another one: c_m = sum_k mean |s_m,k| and w_m prop. to 1 / max(.3, H_m / sum H), both normalised, a = softmax(T [c_1 w_0, c_0 w_1]). '
    'As first released (adfc58c) it raises an error as soon as the model is built; without that line it would compute a and leave both encoders at '
    '1 + 1 / 2. Since 51a9de3 the gradient at the last feature map of each encoder is multiplied by 1 + a, with the a of the step before (here that '
    'of the same update); its TensorBoard branch still passes arguments that nothing takes. Its coefficients start after epoch 5, '
    'with gamma = 1 before (begin here); it clips the norm to 40. H and d are taken without dropout (there with it), the auxiliary losses with it. Optimisers that cancel a constant factor (Adam and its kin) hardly notice a: the shipped '
    "digits_av and MVSA configs let it act on the update instead (apply_to='auto').",
)
method_model = dict(
    losses=[dict(type='FusedCrossEntropy'), dict(type='AloneCrossEntropy', weight=4.0)],
)
method_optim_wrapper = dict(
    type='CALOptimWrapper',
    modulator=dict(type='ARL', temperature=8.0),
    apply_to='auto',
)
