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
    concat=dict(title='concat'),
    concat_uni=dict(title='concat + unimodal'),
    mmpareto=dict(title='MMPareto'),
    cal_uniform=dict(title='uniform beta'),
    cal=dict(title='CAL'),
)
lrs = [3e-4, 1e-3, 3e-3]
seeds = list(range(10))
tuning_seeds = [0]
reference = 'cal'
notes = """The two small CNNs of digits_av and an MLP on a third modality, 300 standard normals per sample that say nothing about the class. 300 samples to train on, 300 for
validation, 1,500 for the test.

What it says:

- Measured with CAL's preset before it had dynamic weights and the pool gate, with 5 seeds and without concat and MMPareto; not run again yet.
- With few samples and a useless modality, the out-of-fold W (image .87 to .90, audio .08 to .11, noise .02, alike in all seeds) and the floor rule (beta .02 for the image,
  .16 to .17 for the audio, .20 for the noise) beat concat with unimodal losses by 26 points and a uniform beta by 17, in every seed.
- CAL does not beat the image alone (82.9 against 81.4, not a significant difference): it finds the good modality and does not lose much to the others, but gains nothing
  from the audio, which alone reaches 62 %.
- The uniform control has beta .02, less than any of CAL's but the image's. Only the learning rate is tuned here, and every method chose the edge of the grid."""
