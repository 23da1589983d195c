"""Corruptions of a whole modality, whatever its kind: missing, or taken from another sample."""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from cal_mm.registry import CORRUPTIONS

from .base import Corruption, _joined

__all__ = ['MissingModality', 'SwapModality', 'nothing_left']

_MAX_TRIES = 1000


@CORRUPTIONS.register_module()
class MissingModality(Corruption):
    """A share ``ratio`` of the samples (1 by default) loses the modality.

    The value becomes None and the modality's name joins the sample's ``missing``.
    """

    kind = 'any'
    parameter = 'ratio'
    unit = 'share of the samples'
    levels = (0.2, 0.4, 0.6, 0.8, 1.0)
    bounds = (0, 1)
    default = 1.0
    aliases = ('missing', 'drop')

    def corrupt(self, value: Any, rng: np.random.Generator) -> Any:
        """None, for a share ``ratio`` of the samples."""
        return None if rng.random() < self.value else value

    def _replace(self, item: dict, value: Any) -> dict:
        item = super()._replace(item, value)
        if value is None:
            sample = item['data_samples']  # already a copy
            sample.set_metainfo({'missing': _joined(sample, 'missing', self.modality)})
        return item


@CORRUPTIONS.register_module()
class SwapModality(Corruption):
    """Conflict: a share ``ratio`` of the samples gets the modality of a sample of another class.

    The other sample comes from the whole dataset, drawn from this sample's own generator, so it
    does not depend on what else is in the batch. It needs the dataset and therefore runs in the
    test loop (or whatever calls :meth:`apply` with one), not on a collated batch.
    """

    kind = 'any'
    parameter = 'ratio'
    unit = 'share of the samples'
    levels = (0.2, 0.4, 0.6, 0.8, 1.0)
    bounds = (0, 1)
    default = 1.0
    aliases = ('swap', 'conflict')
    needs_dataset = True

    def apply(self, item: dict, dataset: Any = None) -> dict:
        """``item`` with the modality of another sample.

        Raises:
            ValueError: no dataset was given, or it holds no sample of another class.
        """
        sample = item['data_samples']
        value = self._value_of(item, sample.sample_id)
        if dataset is None:
            raise ValueError(
                f'{self.name} takes values of other samples: use it through RobustnessTestLoop '
                f'(tools/test.py --attack swap@{self.modality}), which hands it the dataset'
            )
        rng = self.generator(sample.sample_id)
        if value is None or rng.random() >= self.probability * self.value:
            return item
        for _ in range(_MAX_TRIES):
            donor = dataset[int(rng.integers(len(dataset)))]
            other = donor['inputs'][self.modality]
            if other is not None and int(donor['data_samples'].gt_label) != int(sample.gt_label):
                return self._replace(item, other)
        raise ValueError(
            f'{self.name}: no sample of another class that has {self.modality!r} was found for '
            f'sample {sample.sample_id!r} in {_MAX_TRIES} draws'
        )


def nothing_left(corruptions: Iterable[Corruption], modalities: Collection[str]) -> bool:
    """Whether ``corruptions`` take all of ``modalities`` from every sample."""
    gone = {
        c.modality
        for c in corruptions
        if isinstance(c, MissingModality) and c.value * c.probability >= 1
    }
    return gone >= set(modalities)
