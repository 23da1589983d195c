"""What several tests of corruptions share."""

import numpy as np
import torch

import cal_mm.corruptions  # noqa: F401 (registers them)
from cal_mm.registry import CORRUPTIONS

#: every corruption of this project that acts on a sample alone, by name
CLASSES = {
    name: cls
    for name, cls in CORRUPTIONS.module_dict.items()
    if cls.__module__.startswith('cal_mm.') and cls.sample_wise and not cls.needs_dataset
}


def run(noise, value, seed=0):
    return noise.corrupt(value, np.random.default_rng(seed))


def grey(level, channels=3, side=400):
    return torch.full((channels, side, side), level, dtype=torch.uint8)
