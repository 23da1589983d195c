"""Prepared data and the transforms over it."""

from . import transforms
from .access import (
    column_of,
    dataset_of,
    datasets_of,
    described_datasets,
    feature_statistics,
    needed_column,
    set_dataset_epoch,
)
from .collate import collate_batch
from .manifest import read_manifest
from .multimodal_dataset import MultiModalDataset
from .valued_sampler import ValuedSampler

__all__ = [
    'MultiModalDataset',
    'ValuedSampler',
    'collate_batch',
    'column_of',
    'dataset_of',
    'datasets_of',
    'described_datasets',
    'feature_statistics',
    'needed_column',
    'read_manifest',
    'set_dataset_epoch',
    'transforms',
]
