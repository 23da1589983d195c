"""What every transform shares: modalities, errors that name the sample, the generator."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from cal_mm.registry import suggestion

__all__ = ['ModalityTransform', 'SampleError', 'generator_of', 'is_repeatable', 'sample_error']


class SampleError(ValueError):
    """A sample that cannot be used; the text names the sample, the modality and the reason."""


def sample_error(results: dict, modality: str, reason: object) -> SampleError:
    """The error for ``modality`` of the sample in ``results``."""
    split = f' (split {results["split"]!r})' if 'split' in results else ''
    sample_id = results.get('sample_id', '?')
    return SampleError(f'sample {sample_id!r}{split}, modality {modality!r}: {reason}')


def generator_of(results: dict) -> np.random.Generator:
    """``results['rng']``, the only source of randomness of a transform.

    Raises:
        LookupError: it is not there (``MultiModalDataset`` puts it there).
    """
    rng = results.get('rng')
    if rng is None:
        raise LookupError(
            "results has no 'rng': random transforms draw from the numpy Generator that "
            "MultiModalDataset puts into results['rng']"
        )
    return rng


def is_repeatable(transform: object) -> bool:
    """Whether the same input always gives the same output, so that it can be kept.

    Only where the very class says so with ``repeatable``: a subclass may draw at random.
    """
    return 'repeatable' in vars(type(transform)) and bool(transform.repeatable)  # type: ignore[attr-defined]


class ModalityTransform(BaseTransform):
    """A transform of one modality, or of several in the same way.

    A missing value (None) is left alone. A class whose output depends on nothing but its input and
    its arguments says ``repeatable = True``: datasets may then keep what came out.

    Args:
        modality: name of the modality, or several names.
        modalities: the same, for several; give one of the two.
    """

    def __init__(
        self, modality: str | Sequence[str] | None = None, modalities: Sequence[str] | None = None
    ) -> None:
        given = modality if modality is not None else modalities
        if not given or (modality is not None and modalities is not None):
            raise ValueError(
                f'{type(self).__name__} needs modality=... or modalities=(...), one of the two'
            )
        self.modalities: tuple[str, ...] = (given,) if isinstance(given, str) else tuple(given)

    def transform(self, results: dict) -> dict:
        """Apply the transform to each of its modalities that is present."""
        for modality in self.present(results):
            results[modality] = self.guarded(results, modality)
        return results

    @property
    def separable(self) -> bool:
        """Whether it reads nothing but its own modalities, so that others can be left out.

        False where ``transform`` is overridden, unless the subclass says otherwise.
        """
        return type(self).transform is ModalityTransform.transform

    def update_facts(self, facts: dict[str, dict[str, Any]]) -> None:
        """Change what ``facts`` {m: {'kind': ..., ...}} say of values that the transform changes.

        The dataset calls it once, in the order of the pipeline; the outcome is
        ``metainfo['modalities']``. By default nothing changes.
        """

    def present(self, results: dict) -> list[str]:
        """The modalities of this transform that the sample has."""
        for modality in self.modalities:
            if modality not in results:
                known = sorted(results.get('kinds', ()))
                raise LookupError(
                    f'{type(self).__name__}: no modality {modality!r} in the sample.'
                    f'{suggestion(modality, known)} Present: {", ".join(known) or "none"}.'
                )
        return [m for m in self.modalities if results[m] is not None]

    def guarded(self, results: dict, modality: str, *args: Any) -> Any:
        """``apply`` with errors that name the sample and the modality."""
        try:
            return self.apply(results[modality], modality, results, *args)
        except SampleError:
            raise
        except Exception as e:
            raise sample_error(results, modality, e) from e

    @abstractmethod
    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> Any:
        """The new value of ``modality``; raise ValueError with the reason if it cannot be."""

    def __repr__(self) -> str:
        return f'{type(self).__name__}(modalities={self.modalities})'
