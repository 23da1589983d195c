# Robust training: half of the samples get noise on image or text, and either is missing in a tenth.
# Put in before PackInputs: [*_base_.pipeline[:-1], *_base_.augmentation, _base_.pipeline[-1]]
augmentation = [
    dict(
        type='CorruptSample',
        probability=0.5,
        corruptions=[
            dict(type='ImageGaussianNoise', modality='image'),
            dict(type='TextWordMask', modality='text'),
        ],
    ),
    dict(type='RandomModalityDrop', probabilities=dict(image=0.1, text=0.1)),
]
