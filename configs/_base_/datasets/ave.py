# AVE, 28 events, cut to the event; python -m data_prep.ave --raw DIR --out data/ave
# Front end `pmr-10s`: 16 kHz, 10 s, 257 x 1004; 3 frames a clip, one of each equal segment (random in training, else the middle)
modalities = ('audio', 'image')
num_frames = 3
preset = 'pmr-10s'
train_pipeline = [
    dict(type='LoadAudio', modality='audio', preset=preset),
    dict(type='LoadImage', modality='image', num_frames=num_frames, frame_sampling='random'),
    dict(type='RandomResizedCrop', modality='image', size=224),
    dict(type='RandomFlip', modality='image'),
    dict(type='PackInputs', modalities=modalities),
]
test_pipeline = [
    dict(type='LoadAudio', modality='audio', preset=preset),
    dict(type='LoadImage', modality='image', num_frames=num_frames),
    dict(type='Resize', modality='image', size=(224, 224)),
    dict(type='PackInputs', modalities=modalities),
]
dataset = dict(type='MultiModalDataset', data_root='data/ave')

train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    collate_fn=dict(type='collate_batch'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**dataset, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    collate_fn=dict(type='collate_batch'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, split='val', pipeline=test_pipeline, test_mode=True),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=4,
    collate_fn=dict(type='collate_batch'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, split='test', pipeline=test_pipeline, test_mode=True),
)
val_evaluator = dict(type='MultiModalMetric')
test_evaluator = dict(type='MultiModalMetric')
