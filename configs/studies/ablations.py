# What of CAL does what: its parts left out, its directions made uniform, turned round or drawn at random, at the same sums. Conditions and
# datasets as in main.py; the rates as there.
#   python -m data_prep.synthetic --out data/known_answer --num-train 300 --num-val 300 --num-test 2000 --dim c=300 --wrong b=0.2 --signal 2
#   python tools/study.py configs/studies/ablations.py --workers 2 --only known@labels20 mosi@clean
# The report compares with `cal`; --cfg-options reference=k (or b) compares the ways of accelerating (compressing) with each other.
_base_ = 'main.py'
title = "Ablations of CAL"
_ridge = {'model.contribution.source': 'ridge'}
_none = {**_ridge, 'model.gate': 'none'}
# W is measured before the first step: no warm-up, of which the best epoch at a high rate would be a part
_accelerated = {**_none, 'optim_wrapper.modulator.gamma': 3.0, 'optim_wrapper.modulator.begin': 0.0}
_only_k = {
    **_accelerated,
    'model.contribution.feature_weights': None,
    'model.contribution.soft_targets': 0.0,
    'model.losses.AIBLoss.rule': 'uniform',
}
# the bottleneck alone, without dynamic weights and soft targets
_only_beta = {**_none, 'model.contribution.feature_weights': None, 'model.contribution.soft_targets': 0.0}
# W from the training batches has no held-out predictions
_batches = {'model.contribution.source': 'train', 'model.contribution.soft_targets': 0.0, 'model.gate': 'none'}
# encoders that learn are measured by a pilot
_learnt = dict(
    digits_av={'model.contribution.source': 'pilot'}, noise_modality={'model.contribution.source': 'pilot'}
)
datasets = dict(
    known=dict(
        title='known answer (300 samples)',
        base=['models/synthetic_mlp.py', 'datasets/synthetic.py', 'schedules/adamw_20e.py'],
        data_root='data/known_answer',
        prepare='python -m data_prep.synthetic --out data/known_answer --num-train 300 --num-val 300 --num-test 2000 --dim c=300 --wrong b=0.2 --signal 2',
        epochs=20,
        val_interval=2,
        options={'model.encoders.c.in_channels': 300},
    )
)
methods = dict(
    _delete_=True,
    concat=dict(title='concat'),
    concat_uni=dict(title='concat + unimodal'),
    cal=dict(title='CAL', datasets=_learnt, options=_ridge, gates=['config', 'none', 'experts']),
    soft0=dict(method='cal', title='no soft targets', datasets=_learnt, options={**_none, 'model.contribution.soft_targets': 0.0}),
    weights0=dict(method='cal', title='no dynamic weights', datasets=_learnt, options={**_none, 'model.contribution.feature_weights': None}),
    weights_uniform=dict(
        method='cal', title='uniform weights', datasets=_learnt, options={**_none, 'model.contribution.feature_weights.rule': 'uniform'}
    ),
    weights_inverse=dict(
        method='cal', title='inverse weights', datasets=_learnt, options={**_none, 'model.contribution.feature_weights.rule': 'inverse'}
    ),
    beta0=dict(method='cal', title='beta = 0', datasets=_learnt, options={**_none, 'model.losses.AIBLoss.beta': 0.0}),
    beta_uniform=dict(
        method='cal', title='uniform beta', datasets=_learnt, options={**_none, 'model.losses.AIBLoss.rule': 'floor_uniform'}
    ),
    beta_inverse=dict(
        method='cal', title='inverse beta', datasets=_learnt, options={**_none, 'model.losses.AIBLoss.rule': 'floor_inverse'}
    ),
    batches=dict(method='cal', title='W from training batches', options=_batches),
    # the bottleneck alone, without dynamic weights and soft targets
    b=dict(method='cal', title='guided beta alone', datasets=_learnt, options=_only_beta),
    b_uniform=dict(
        method='cal', title='uniform beta alone', datasets=_learnt,
        options={**_only_beta, 'model.losses.AIBLoss.rule': 'floor_uniform'},
    ),
    b_inverse=dict(
        method='cal', title='inverse beta alone', datasets=_learnt,
        options={**_only_beta, 'model.losses.AIBLoss.rule': 'floor_inverse'},
    ),
    # acceleration alone, without dynamic weights and soft targets, over a uniform bottleneck
    k1=dict(method='cal', title='k = 1', datasets=_learnt, options={**_only_k, 'optim_wrapper.modulator.gamma': 0.0}),
    k=dict(method='cal', title='guided k', datasets=_learnt, options=_only_k),
    k_uniform=dict(method='cal', title='uniform k', datasets=_learnt, options={**_only_k, 'optim_wrapper.modulator.mode': 'uniform'}),
    k_inverse=dict(method='cal', title='inverse k', datasets=_learnt, options={**_only_k, 'optim_wrapper.modulator.mode': 'inverse'}),
    k_random=dict(method='cal', title='random k', datasets=_learnt, options={**_only_k, 'optim_wrapper.modulator.mode': 'random'}),
    k_budget=dict(method='cal', title='guided k, budget', datasets=_learnt, options={**_only_k, 'optim_wrapper.modulator.budget': True}),
    k_information=dict(method='cal', title='guided k, I only', datasets=_learnt, options={**_only_k, 'model.contribution.lam': 1.0}),
    k_confidence=dict(method='cal', title='guided k, D only', datasets=_learnt, options={**_only_k, 'model.contribution.lam': 0.0}),
    k_batches=dict(
        method='cal', title='guided k, W from training batches', options={**_only_k, 'model.contribution.source': 'train'}
    ),
    k_on_top=dict(method='cal', title='CAL and guided k', datasets=_learnt, options=_accelerated),
)
training = dict(
    _delete_=True,
    clean=dict(title='clean'),
    n300=dict(title='300 samples', num_samples=300),
    labels20=dict(title='20 % wrong labels', label_noise=0.2),
)
statistics = dict(resamples=100_000)
notes = """Rows without a gate's name decide by the fused prediction alone. *k* rows have no dynamic weights and no soft targets, and the same bottleneck for all, so that nothing but the
acceleration differs; gamma = 3, from the first step on."""
