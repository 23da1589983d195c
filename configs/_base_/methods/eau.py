# EAU: Gaussian embeddings; who is less certain weighs less, dimension by dimension.
method = dict(
    title='EAU',
    acts_on='features, loss and gradients of the encoders',
    formula='q(z_m | h_m) = N(mu_m, diag sigma_m^2); z_m = mu_m softmax_m(mean variance of the others); '
    'L = CE(y) + 1e-3 sum InfoNCE(two draws of m; tau .5) + 1e-3 sum KL(q_m || N(0, I)) '
    '+ 1e-5 mean KL(q_m || q_n); g_m <- (1 + .01 U_m) g_m, U_m = share of the variance',
    source='Gao et al., CVPR 2024',
    modalities='M >= 2',
    splits='not exact: the negatives of the InfoNCE are those of the micro-batch',
    differences='Our reading: U_m is the modality\'s share of the posterior variance; a public partial '
    're-implementation ("EAURMF") takes the variance of fused logits over draws and shows no use of it. '
    'That code uses the variance (or its logarithm) as the standard deviation of a draw and squares '
    'variances in the cross-modal KL; ours uses sigma and the true KL. Its second bottleneck after '
    'fusion is left out. M > 2: mean over the others (ours). Adam and its kin cancel most of 1 + .01 U_m.',
)
method_model = dict(
    bottleneck=dict(type='VariationalBottleneck'),
    feature_transforms=[dict(type='VarianceWeights')],
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='AleatoricLoss', contrast=1e-3, kl=1e-3, cross=1e-5, temperature=0.5),
    ],
)
method_optim_wrapper = dict(
    type='CALOptimWrapper',
    modulator=dict(type='UncertaintyModulator', strength=0.01),
    apply_to='gradient',
)
