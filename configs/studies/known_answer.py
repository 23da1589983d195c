# Does the direction of W matter? 300 samples, 20 % of their labels wrong; a tells the class, b tells it but is drawn for a wrong class in
# 20 % of the samples, c is 300 numbers of noise. Expected: guided > uniform > inverse, and guided > a alone. (At 30 % no fusion of a and b by concatenation
# beats a alone with 300 samples, also not with c left out by hand: nothing is known there to be found.)
#   python -m data_prep.synthetic --out data/known_answer --num-train 300 --num-val 300 --num-test 2000 --dim c=300 --wrong b=0.2 --signal 2
#   python tools/study.py configs/studies/known_answer.py --workers 2
title = 'Known answer: an informative, a weak and a useless modality'
datasets = dict(
    synthetic=dict(
        title='synthetic (300 samples)',
        base=['models/synthetic_mlp.py', 'datasets/synthetic.py', 'schedules/adamw_20e.py'],
        data_root='data/known_answer',
        prepare='python -m data_prep.synthetic --out data/known_answer --num-train 300 --num-val 300 --num-test 2000 --dim c=300 --wrong b=0.2 --signal 2',
        epochs=20,
        val_interval=2,
        options={'model.encoders.c.in_channels': 300},
    )
)
# uniform and inverse keep the sums of guided: the mean of its dynamic weights and betas, and its values in the opposite order
guided = {'model.contribution.source': 'ridge'}
uniform = {
    **guided,
    'model.gate': 'none',
    'model.contribution.feature_weights.rule': 'uniform',
    'model.losses.AIBLoss.rule': 'floor_uniform',
}
inverse = {
    **guided,
    'model.gate': 'none',
    'model.contribution.feature_weights.rule': 'inverse',
    'model.losses.AIBLoss.rule': 'floor_inverse',
}
beta_uniform = {**guided, 'model.gate': 'none', 'model.losses.AIBLoss.rule': 'floor_uniform'}
beta_inverse = {**guided, 'model.gate': 'none', 'model.losses.AIBLoss.rule': 'floor_inverse'}
methods = dict(
    single=dict(method='concat', title='alone', each_modality=True),
    concat=dict(title='concat'),
    concat_uni=dict(title='concat + unimodal'),
    ogm_ge=dict(title='OGM-GE'),
    agm=dict(title='AGM'),
    mmpareto=dict(title='MMPareto'),
    cal_uniform=dict(title='uniform beta, no weights'),
    cal=dict(title='guided', options={**guided, 'model.gate': 'none'}, gates=['config', 'pool']),
    uniform=dict(method='cal', title='uniform', options=uniform),
    inverse=dict(method='cal', title='inverse', options=inverse),
    beta_uniform=dict(method='cal', title='uniform beta', options=beta_uniform),
    beta_inverse=dict(method='cal', title='inverse beta', options=beta_inverse),
)
training = dict(labels20=dict(title='20 % wrong labels', label_noise=0.2))
lrs = [1e-3, 3e-3, 1e-2, 3e-2]
seeds = list(range(10))
tuning_seeds = [0]
reference = 'cal'
statistics = dict(resamples=100_000)
