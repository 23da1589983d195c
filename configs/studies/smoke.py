# A study in seconds, to see that everything works; its numbers mean nothing.
#   python -m data_prep.synthetic --out data/synthetic
#   python tools/study.py configs/studies/smoke.py --workers 2
title = 'Smoke test on synthetic features'
datasets = dict(
    synthetic=dict(
        title='synthetic',
        base=['models/synthetic_mlp.py', 'datasets/synthetic.py', 'schedules/sgd_3e.py'],
        data_root='data/synthetic',
        prepare='python -m data_prep.synthetic --out data/synthetic',
        epochs=3,
        tests=dict(attacks=['noise:3@a'], drop=['a']),
    )
)
methods = dict(
    concat=dict(
        title='concat', settings=[{}, {'optim_wrapper.optimizer.weight_decay': 1e-2}]
    ),
    cal=dict(
        title='CAL',
        options={'model.contribution.source': 'ridge'},
        grid={'model.losses.AIBLoss.beta': [2e-2, 5e-2]},
    ),
)
training = dict(
    clean=dict(title='clean'),
    labels20=dict(title='20 % label noise', label_noise=0.2),
    n60=dict(title='60 samples', num_samples=60, select='clean'),
)
lrs = [0.05, 0.1]
seeds = [0, 1]
tuning_seeds = [0]
reference = 'cal'
statistics = dict(resamples=500)
