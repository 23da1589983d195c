# Robust training: half of the samples get noise on one of the six views, and each view is missing in three of ten.
# Put in before PackInputs: [*_base_.pipeline[:-1], *_base_.augmentation, _base_.pipeline[-1]]
augmentation = [
    dict(
        type='CorruptSample',
        probability=0.5,
        corruptions=[
            dict(type='FeatureGaussianNoise', modality='fac'),
            dict(type='FeatureGaussianNoise', modality='fou'),
            dict(type='FeatureGaussianNoise', modality='kar'),
            dict(type='FeatureGaussianNoise', modality='mor'),
            dict(type='FeatureGaussianNoise', modality='pix'),
            dict(type='FeatureGaussianNoise', modality='zer'),
        ],
    ),
    dict(
        type='RandomModalityDrop',
        probabilities=dict(fac=0.3, fou=0.3, kar=0.3, mor=0.3, pix=0.3, zer=0.3),
    ),
]
