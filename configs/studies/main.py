# The study: every method on seven datasets, clean, with few samples, with wrong labels, with noise in training, with one modality degraded in
# training; tested clean, under noise and without each modality. Days of work on two cores: look at it first with --dry-run, run parts with --only.
#   python tools/study.py configs/studies/main.py --dry-run --no-probe
#   python tools/study.py configs/studies/main.py --workers 2 --only digits_av
title = 'Methods of multimodal fusion under imbalance and noise'
ridge = {'model.contribution.source': 'ridge'}  # frozen encoders and features: docs/methods/cal.md
frozen = dict(mvsa=ridge, nyud2=ridge, mosi=ridge, uci_hard=ridge, uci=ridge)
untrained = {
    'model.losses': [dict(type='FusedCrossEntropy'), dict(type='UnimodalCrossEntropy', weight=1.0)],
    'model.contribution.feature_weights': None,
    'model.contribution.soft_targets': 0.0,
    'model.bottleneck.type': 'LinearBottleneck',
}

uci_digits = dict(
    base=['models/uci_digits_mlp.py', 'datasets/uci_digits.py', 'schedules/adamw_20e.py'],
    data_root='data/uci_digits',
    prepare='python -m data_prep.uci_digits --raw DIR --out data/uci_digits',
    epochs=20,
    val_interval=2,
    tests=dict(protocols=['clipped'], drop=['fou', 'mor', 'zer'], seeds=1),
)

datasets = dict(
    digits_av=dict(
        title='digits_av',
        base=['models/digits_av_small.py', 'datasets/digits_av.py', 'schedules/adamw_20e.py'],
        data_root='data/digits_av',
        prepare='python -m data_prep.digits_av --out data/digits_av',
        epochs=20,
        val_interval=2,
        transforms=dict(
            noise='augmentations/digits_av.py',
            degraded=[
                dict(
                    type='CorruptSample',
                    corruptions=[dict(type='ImageGaussianNoise', modality='image', severity=5)],
                )
            ],
        ),
        tests=dict(protocols=['clipped'], attacks=['swap@audio', 'swap@image'], drop=['audio', 'image'], seeds=1),
    ),
    mvsa=dict(
        title='MVSA-Single, frozen',
        base=['models/mvsa_single_frozen.py', 'datasets/mvsa_single.py', 'schedules/adamw_20e.py'],
        data_root='data/mvsa_single',
        prepare='python -m data_prep.mvsa_single --raw DIR --out data/mvsa_single',
        epochs=20,
        transforms=dict(
            noise='augmentations/mvsa_single.py',
            degraded=[
                dict(
                    type='CorruptSample',
                    corruptions=[dict(type='TextWordMask', modality='text', severity=4)],
                )
            ],
        ),
        # noise in training: five noisy versions of every sample, encoded once for the whole study
        options={'default_hooks.feature_cache.draws': 5},
        tests=dict(
            protocols=['clipped', 'qmf-legacy'], attacks=['swap@image', 'swap@text'], drop=['image', 'text'], seeds=1
        ),
    ),
    nyud2=dict(
        title='NYUD2 (5 scene-disjoint folds), frozen',
        base=['models/nyud2_frozen.py', 'datasets/nyud2_center.py', 'schedules/adamw_20e.py'],
        data_root='data/nyud2_folds/{fold}',
        folds=5,
        prepare='python -m data_prep.nyud2 --raw DIR --out data/nyud2 && '
        'python -m data_prep.folds --data data/nyud2 --out data/nyud2_folds --folds 5',
        epochs=20,
        transforms=dict(
            noise=[
                dict(
                    type='CorruptSample',
                    probability=0.5,
                    corruptions=[
                        dict(type='ImageGaussianNoise', modality='rgb'),
                        dict(type='DepthGaussianNoise', modality='depth'),
                    ],
                ),
                dict(type='RandomModalityDrop', probabilities=dict(depth=0.1, rgb=0.1)),
            ]
        ),
        options={'default_hooks.feature_cache.draws': 5},
        tests=dict(protocols=['clipped'], attacks=['swap@depth', 'swap@rgb'], drop=['depth', 'rgb'], seeds=1),
    ),
    mosi=dict(
        title='CMU-MOSI, unseen speakers',
        base=['models/cmu_mosi_mlp.py', 'datasets/cmu_mosi.py', 'schedules/adamw_20e.py'],
        data_root='data/cmu_mosi_unseen',
        prepare='python -m data_prep.cmu_mosi --raw DIR --protocol unseen --out data/cmu_mosi_unseen',
        epochs=20,
        transforms=dict(
            noise=[
                dict(
                    type='CorruptSample',
                    probability=0.5,
                    corruptions=[
                        dict(type='FeatureGaussianNoise', modality='audio'),
                        dict(type='FeatureGaussianNoise', modality='text'),
                        dict(type='FeatureGaussianNoise', modality='video'),
                    ],
                ),
                dict(type='RandomModalityDrop', probabilities=dict(audio=0.1, text=0.1, video=0.1)),
            ]
        ),
        tests=dict(protocols=['clipped'], drop=['audio', 'text', 'video'], seeds=1),
    ),
    uci_hard=dict(
        **uci_digits,
        title='UCI digits: fou, mor, zer',
        modalities=['fou', 'mor', 'zer'],
        transforms=dict(
            noise='augmentations/uci_digits.py',
            degraded=[
                dict(
                    type='CorruptSample',
                    corruptions=[dict(type='FeatureGaussianNoise', modality='fou', severity=5)],
                )
            ],
        ),
    ),
    uci=dict(
        **uci_digits,
        title='UCI digits: all six views',
        transforms=dict(noise='augmentations/uci_digits.py'),
    ),
    noise_modality=dict(
        title='digits_av with a noise modality (300 samples)',
        base=['models/digits_av_noise_small.py', 'datasets/digits_av_noise.py', 'schedules/adamw_40e.py'],
        data_root='data/digits_av_noise',
        prepare='python -m data_prep.digits_av --out data/digits_av_noise --num-train 300 --noise-modality 300',
        epochs=40,
        val_interval=4,
    ),
)

# only the learning rate is tuned: every method has one setting, its published or shipped default
methods = dict(
    single=dict(method='concat', title='alone', each_modality=True),
    concat=dict(title='concat'),
    concat_uni=dict(title='concat + unimodal'),
    sum=dict(title='sum'),
    film=dict(title='FiLM'),
    gated=dict(title='gated'),
    attention=dict(title='attention'),
    lowrank=dict(title='low-rank'),
    transformer=dict(title='transformer'),
    late=dict(title='late'),
    # concat + unimodal losses with CAL's predictions: what the gate gives without the training
    concat_uni_pool=dict(
        method='cal', title="concat + unimodal, CAL's gate", options={**ridge, **untrained}
    ),
    mm_cosine=dict(title='MMCosine'),
    ogm=dict(title='OGM'),
    ogm_ge=dict(title='OGM-GE'),
    agm=dict(title='AGM'),
    pmr=dict(title='PMR'),
    mmpareto=dict(title='MMPareto'),
    mla=dict(title='MLA'),
    arl=dict(title='ARL'),
    g_blending=dict(title='G-Blending'),
    opm=dict(title='OPM'),
    cggm=dict(title='CGGM'),
    dandr=dict(title='D&R'),
    inforeg=dict(title='InfoReg'),
    aug=dict(title='AUG'),
    umt=dict(title='UMT'),
    mbsd=dict(title='MBSD'),
    cml=dict(title='CML'),
    lfm=dict(title='LFM'),
    amco=dict(title='AMCo'),
    reconboost=dict(title='ReconBoost'),
    greedy=dict(title='Greedy'),
    sample_valuation=dict(title='sample valuation'),
    qmf=dict(title='QMF'),
    pdf=dict(title='PDF'),
    tmc=dict(title='TMC'),
    etmc=dict(title='ETMC'),
    eau=dict(title='EAU'),
    vib=dict(title='VIB'),
    mib=dict(title='MIB'),
    omib=dict(title='OMIB'),
    cal_uniform=dict(title='uniform beta'),
    cal_paper=dict(title='CAL (paper)', datasets=frozen),
    cal=dict(title='CAL', datasets=frozen),
    # the sums of CAL without its direction, and against it
    cal_even=dict(
        method='cal', title='CAL, uniform', datasets=frozen,
        options={'model.contribution.feature_weights.rule': 'uniform', 'model.losses.AIBLoss.rule': 'floor_uniform'},
    ),
    cal_inverse=dict(
        method='cal', title='CAL, inverse', datasets=frozen,
        options={'model.contribution.feature_weights.rule': 'inverse', 'model.losses.AIBLoss.rule': 'floor_inverse'},
    ),
)

curves = ['concat', 'concat_uni', 'concat_uni_pool', 'cal_uniform', 'arl', 'mmpareto', 'cal', 'cal_even', 'cal_inverse']
training = dict(
    clean=dict(title='clean'),
    noise=dict(title='noise in training', transforms='noise'),
    degraded=dict(
        title='one modality degraded in training',
        transforms='degraded',
        datasets=['digits_av', 'mvsa', 'uci_hard'],
    ),
    n100=dict(title='100 samples', num_samples=100, methods=curves),
    n300=dict(
        title='300 samples', num_samples=300, methods=curves, datasets=['digits_av', 'mvsa', 'nyud2', 'mosi', 'uci_hard']
    ),
    n1000=dict(
        title='1,000 samples', num_samples=1000, methods=curves, datasets=['digits_av', 'mvsa', 'uci_hard']
    ),
    labels10=dict(title='10 % wrong labels', label_noise=0.1, methods=curves),
    labels20=dict(title='20 % wrong labels', label_noise=0.2, methods=curves),
    labels40=dict(title='40 % wrong labels', label_noise=0.4, methods=curves),
)
lrs = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
seeds = list(range(10))
tuning_seeds = [0, 1]
finalists = 2
reference = 'cal'
statistics = dict(resamples=100_000)
notes = """Parts of the study that have been run, by `--only`. Only the learning rate is tuned. CAL is the shipped preset, its `pool` gate included, and its validation accuracy
is measured with that gate, which is fitted on the same validation split ([this is not what makes a validation accuracy too good](../study/hypotheses.md#how-a-rate-is-chosen)). MOSI's validation split has 90 samples."""
