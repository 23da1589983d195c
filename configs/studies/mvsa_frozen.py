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
