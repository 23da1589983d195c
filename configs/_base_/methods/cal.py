# CAL, the default preset: W measured out of fold before training; whoever tells little (less than a tenth of H(Y) and less than half
# of what the strongest tells) enters the fusion weaker and is compressed harder; labels are softened by held-out predictions; at inference fused
# and unimodal predictions are pooled.
# Reconstruction of arXiv 2510.26289; docs/methods/cal.md says what is ours.
method = dict(
    title='CAL',
    acts_on='features, bottlenecks, inference (and gradients with gamma > 0)',
    formula='W = softmax((lambda I + (1 - lambda) D) / tau) measured out of fold; c_m = clamp(I_m / min(.1, max I / 2), 0, 1); z_m enters the fusion times .1 + .9 c_m; beta_m = beta (1 + 9 (1 - c_m)); g_m <- (1 + gamma W_m) g_m; the cross-entropies learn .8 label + .2 held-out prediction; inference: the mean of log p and the log p_m with the weights f and a_m clamp(J_m / min(.1, max J / 2), 0, 1), J_m what p_m tells on the validation split',
    source='arXiv 2510.26289, our reconstruction: its equations are not public',
    modalities='M >= 1',
    splits='exact',
    differences='See methods/cal.md: every choice is ours, the default gamma is 0.',
)
method_model = dict(
    bottleneck=dict(type='VariationalBottleneck'),
    unimodal_head=dict(type='LinearHead'),
    gate=dict(type='PoolGate'),
    losses=[
        dict(type='FusedCrossEntropy'),
        dict(type='UnimodalCrossEntropy', weight=1.0),
        dict(type='AIBLoss', beta=2e-2, rule='floor', alpha=9.0, pivot=0.1, share=0.5, warmup=0.25),
    ],
    contribution=dict(
        # 'ridge' for frozen encoders and features
        source='pilot',
        information=dict(type='ShapleyInformation'),
        confidence=dict(type='Confidence', kind='entropy'),
        lam=0.5,
        tau=0.15,
        typicality=dict(),
        feature_weights=dict(floor=0.1, pivot=0.1, share=0.5),
        soft_targets=0.2,
    ),
)
method_optim_wrapper = dict(
    type='CALOptimWrapper', modulator=dict(type='AsymmetricAcceleration', gamma=0.0)
)
