# MVSA-Single with frozen encoders: the page docs/results/mvsa_single_frozen.md.
#   python -m data_prep.mvsa_single --raw DIR --out data/mvsa_single
#   python tools/study.py configs/studies/mvsa_frozen.py --out docs/results/mvsa_single_frozen.md
title = 'MVSA-Single, frozen encoders'
datasets = dict(
    mvsa=dict(
        title='MVSA-Single, frozen',
        base=['models/mvsa_single_frozen.py', 'datasets/mvsa_single.py', 'schedules/adamw_20e.py'],
        data_root='data/mvsa_single',
        prepare='python -m data_prep.mvsa_single --raw DIR --out data/mvsa_single',
        epochs=20,
        tests=dict(
            attacks=['gaussian:3,5@image', 'word_mask:3,5@text'],
            protocols=['qmf-legacy'],
            drop=['image', 'text'],
            seeds=1,
        ),
    )
)
ridge = dict(mvsa={'model.contribution.source': 'ridge'})
methods = dict(
    single=dict(method='concat', title='alone', each_modality=True),
    concat=dict(title='concat'),
    concat_uni=dict(title='concat + unimodal'),
    cal_uniform=dict(title='uniform beta'),
    cal=dict(title='CAL', datasets=ridge),
    cal_paper=dict(title='CAL (paper)', datasets=ridge),
)
lrs = [3e-4, 1e-3]
seeds = [0, 1, 2, 3, 4]
tuning_seeds = [0, 1, 2, 3, 4]
reference = 'cal'
notes = """What it says:

- Clean, CAL (79.2 ± 1.0) has the highest mean, but against concat (+1.3), concat with unimodal losses (+1.8), the uniform control (+0.6) and CAL (paper) (+0.8) the
  difference is not significant. One standard error of a single accuracy of 75 % on these 519 samples is 1.9 points.
- With strong image noise (gaussian:5) CAL is significantly better than every other fused model, by 2.4 to 4.0 points. With text noise it is significantly worse than most, by 3.5 to
  4.5 points with half of the words masked and 8 to 12 with no word left: it compresses the image, which is then all there is. Over all noised conditions
  it is significantly worse than the uniform control (-2.8). The uniform control and CAL (paper) have no such weakness.
- What helps here is the bottleneck, not the direction of its strength.
- With no word left every fused model is within 8 points of the 51 % of the majority class.
- CAL alone chose the rate 1e-3, by less than the noise of the validation split; part of the differences is that rate."""
