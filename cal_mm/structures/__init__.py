"""Data structures that pass between the parts."""

from cal_mm.seeding import sample_key

from .data_sample import MultiModalDataSample
from .progress import TrainProgress, epochs_of

__all__ = ['MultiModalDataSample', 'TrainProgress', 'epochs_of', 'sample_key']
