"""Generators seeded from text."""

import numpy as np

from cal_mm.seeding import sample_key

__all__ = ['generator']


def generator(*parts: object) -> np.random.Generator:
    """A generator that depends on ``parts`` alone."""
    return np.random.default_rng(sample_key(*parts))
