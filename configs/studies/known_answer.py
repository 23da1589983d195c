# Does the direction of W matter? 300 samples, 20 % of their labels wrong; a tells the class, b tells it but is drawn for a wrong class in
# 30 % of the samples, c is 300 numbers of noise. Expected: guided > uniform > inverse, and guided > the best single modality.
#   python -m data_prep.synthetic --out data/known_answer --num-train 300 --num-val 300 --num-test 2000 --dim c=300 --signal 2.5
#   python tools/study.py configs/studies/known_answer.py --workers 2
title = 'Known answer: an informative, a weak and a useless modality'
datasets = dict(
    synthetic=dict(
        title='synthetic (300 samples)',
        base=['models/synthetic_mlp.py', 'datasets/synthetic.py', 'schedules/adamw_20e.py'],
        data_root='data/known_answer',
        prepare='python -m data_prep.synthetic --out data/known_answer --num-train 300 --num-val 300 --num-test 2000 --dim c=300 --signal 2.5',
        epochs=20,
        val_interval=2,
        options={'model.encoders.c.in_channels': 300},
    )
)
guided = {'model.contribution.source': 'ridge'}
methods = dict(
    single=dict(method='concat', title='alone', each_modality=True),
    concat=dict(title='concat'),
    concat_uni=dict(title='concat + unimodal'),
    cal=dict(title='guided', options=guided),
    uniform=dict(
        method='cal', title='uniform beta', options={**guided, 'model.losses.AIBLoss.rule': 'uniform', 'model.losses.AIBLoss.beta': 0.1}
    ),
    inverse=dict(
        method='cal', title='inverse beta', options={**guided, 'model.losses.AIBLoss.rule': 'inverse', 'model.losses.AIBLoss.beta': 0.1}
    ),
)
training = dict(labels20=dict(title='20 % wrong labels', label_noise=0.2))
lrs = [1e-3, 3e-3, 1e-2]
seeds = list(range(10))
tuning_seeds = [0]
reference = 'cal'
