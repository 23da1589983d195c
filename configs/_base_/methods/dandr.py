# D&R: encoders that overfit are pulled back towards their initial state, a few times.
method = dict(
    title='D&R (diagnosing and re-learning)',
    acts_on='weights of encoders and bottlenecks, every fifth of the run, at most 3 times',
    formula='a_m = tanh(3 |P_train - P_val|), P = purity of k-means clusters of the features; '
    'theta_m <- a_m theta_m,0 + (1 - a_m) theta_m',
    source='Wei et al., ECCV 2024 (arXiv 2407.09705)',
    modalities='M >= 1',
    splits='exact, but for ties in the clustering: the features differ in the last bit',
    differences='The public code acts every 20 epochs, after epochs 20, 40, 60 (interval=20); ours at shares '
    'of the run. It takes every parameter whose name holds "audio_net" or "visual_net", ours those that '
    'the modality owns, bottleneck included. At most 2000 samples per split are clustered, with 4 '
    'restarts. With frozen encoders the features are the bottleneck\'s.',
)
method_model = dict(losses=[dict(type='FusedCrossEntropy')])
method_optim_wrapper = dict()
method_hooks = [dict(type='ReLearningHook', interval=0.2, times=3, strength=3.0)]
