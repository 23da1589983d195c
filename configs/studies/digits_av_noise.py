# A useless modality and few samples: the page docs/results/digits_av_noise.md.
#   python -m data_prep.digits_av --out data/digits_av_noise --num-train 300 --noise-modality 300
#   python tools/study.py configs/studies/digits_av_noise.py --out docs/results/digits_av_noise.md
title = 'digits_av, 300 training samples and a modality of pure noise'
datasets = dict(
    digits_av_noise=dict(
        title='digits_av + noise (300 samples)',
        base=['models/digits_av_noise_small.py', 'datasets/digits_av_noise.py', 'schedules/adamw_40e.py'],
        data_root='data/digits_av_noise',
        prepare='python -m data_prep.digits_av --out data/digits_av_noise --num-train 300 --noise-modality 300',
        epochs=40,
        val_interval=5,
    )
)
methods = dict(
    single=dict(method='concat', title='alone', each_modality=True),
    concat_uni=dict(title='concat + unimodal'),
    cal_uniform=dict(title='uniform beta'),
    cal=dict(title='CAL'),
)
lrs = [3e-4, 1e-3, 3e-3]
seeds = [0, 1, 2, 3, 4]
tuning_seeds = [0]
reference = 'cal'
