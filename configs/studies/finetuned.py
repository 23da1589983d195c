# Fine-tuned encoders, for a GPU: MVSA-Single and the training pairs of NYUD2 (5 scene-disjoint folds).
#   python tools/study.py configs/studies/finetuned.py --workers 4 --devices cuda:0
title = 'Fine-tuned encoders'
# every worker loads for itself
loading = {
    f'{split}_dataloader.{key}': value
    for split in ('train', 'val', 'test')
    for key, value in dict(num_workers=0, persistent_workers=False).items()
}

datasets = dict(
    mvsa=dict(
        title='MVSA-Single, fine-tuned',
        base=['models/mvsa_single_finetuned.py', 'datasets/mvsa_single_224.py', 'schedules/adamw_finetune_10e.py'],
        data_root='data/mvsa_single',
        prepare='python -m data_prep.mvsa_single --raw DIR --out data/mvsa_single',
        epochs=10,
        options={**loading, 'train_dataloader.batch_size': 64},
        tests=dict(protocols=['qmf-legacy'], drop=['image', 'text'], seeds=1),
    ),
    nyud2=dict(
        title='NYUD2 (5 scene-disjoint folds), fine-tuned',
        base=['models/nyud2_finetuned.py', 'datasets/nyud2.py', 'schedules/adamw_finetune_10e.py'],
        data_root='data/nyud2_folds/{fold}',
        folds=5,
        prepare='python -m data_prep.nyud2 --raw DIR --out data/nyud2 && '
        'python -m data_prep.folds --data data/nyud2 --out data/nyud2_folds --folds 5',
        epochs=10,
        options=loading,
        tests=dict(protocols=['qmf-legacy'], drop=['depth', 'rgb'], seeds=1),
    ),
)

methods = dict(
    cal=dict(title='CAL'),
    concat_uni=dict(title='concat + unimodal'),
    qmf=dict(title='QMF'),
    concat=dict(title='concat'),
)

lrs = [3e-4, 1e-3]
seeds = [0, 1, 2, 3, 4]
tuning_seeds = [0]
reference = 'cal'
