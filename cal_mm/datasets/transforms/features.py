"""Loading feature vectors, and spectrograms computed in the workers."""

from typing import Any

import numpy as np
import torch

from cal_mm.registry import FRONTENDS, TRANSFORMS

from .base import ModalityTransform

__all__ = ['ComputeSpectrogram', 'LoadFeatures']


@TRANSFORMS.register_module()
class LoadFeatures(ModalityTransform):
    """A list of numbers to a float32 tensor [D].

    Prepared data holds one row of numbers per sample; rows [T, D] of a dataset of your own stay so.

    Args:
        modality: name of the modality.
        dim: expected D; None takes any.

    Raises:
        SampleError: empty, ragged, of another size, or with NaN or inf (names the index).
    """

    repeatable = True

    def __init__(self, modality: str, dim: int | None = None) -> None:
        super().__init__(modality)
        self.dim = dim

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """The features."""
        try:
            array = np.array(value, dtype=np.float32)  # a copy: the mapped file is read-only
        except (ValueError, TypeError) as e:
            raise ValueError(f'expected numbers in rows of equal length ({e})') from e
        if array.ndim < 1 or not array.size:
            raise ValueError(f'expected features [D], got shape {array.shape}')
        if self.dim is not None and array.shape[-1] != self.dim:
            raise ValueError(f'expected {self.dim} features, got {array.shape[-1]}')
        bad = ~np.isfinite(array)
        if bad.any():
            where = np.argwhere(bad)[0]
            index = int(where[0]) if len(where) == 1 else tuple(int(i) for i in where)
            raise ValueError(
                f'{int(bad.sum())} of {array.size} features are not finite, the first at index '
                f'{index} ({array[tuple(where)]}); correct the raw features or list the sample as '
                'bad'
            )
        return torch.from_numpy(array)


@TRANSFORMS.register_module()
class ComputeSpectrogram(ModalityTransform):
    """Compute a spectrogram in the worker instead of on the device.

    The modality's kind becomes ``features``; give the model a ``FeatureFrontEnd`` for it. Waveform
    corruptions then no longer apply: they need the waveform.

    Args:
        modality: name of a waveform modality.
        frontend: config of a front end of the kind ``waveform``.

    Raises:
        ValueError: a front end of another kind, or for waveforms of another sample rate.
    """

    def __init__(self, modality: str, frontend: dict) -> None:
        super().__init__(modality)
        self.frontend = FRONTENDS.build(dict(frontend))
        if getattr(self.frontend, 'kind', None) != 'waveform':
            raise ValueError(
                f'{type(self.frontend).__name__} takes {getattr(self.frontend, "kind", None)}, '
                f'ComputeSpectrogram needs a front end of the kind waveform'
            )

    @property
    def repeatable(self) -> bool:
        """See ``ModalityTransform``; a front end of one's own may draw at random."""
        return type(self.frontend).__module__.startswith('cal_mm.')

    def update_facts(self, facts: dict[str, dict[str, Any]]) -> None:
        """Changes nothing; refuses waveforms of another sample rate than the front end's."""
        expected = getattr(self.frontend, 'sample_rate', None)
        for modality in self.modalities:
            found = facts[modality].get('sample_rate')
            if None not in (found, expected) and found != expected:
                raise ValueError(
                    f'ComputeSpectrogram: the waveforms of {modality!r} have {found} Hz, but '
                    f'frontend.sample_rate is {expected}: set both to one rate '
                    f'(LoadAudio(sample_rate=...))'
                )

    def apply(self, value: Any, modality: str, results: dict, *args: Any) -> torch.Tensor:
        """Spectrogram [1, F, T], float32."""
        with torch.no_grad():
            spectrogram = self.frontend([value])[0][0]
        results.setdefault('kinds', {})[modality] = 'features'
        return spectrogram
