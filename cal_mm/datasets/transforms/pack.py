"""The last transform: from ``results`` to what the collate function takes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmcv.transforms import BaseTransform

from cal_mm.registry import TRANSFORMS
from cal_mm.structures import MultiModalDataSample

from .base import sample_error

__all__ = ['PackInputs', 'check_packed']

_LOADERS = {
    'image': 'LoadImage',
    'depth': 'LoadDepth',
    'waveform': 'LoadAudio',
    'text': 'LoadText',
    'features': 'LoadFeatures',
}


def _tensor(dtype: torch.dtype, dims: Sequence[int], layout: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not isinstance(value, torch.Tensor):
            raise TypeError(f'got {type(value).__name__}')
        if value.dtype != dtype or value.ndim not in dims or not value.numel():
            raise ValueError(
                f'expected {dtype} {layout}, not empty, got {value.dtype} {list(value.shape)}'
            )
        if not dtype.is_floating_point or bool(torch.isfinite(value.sum())):
            return  # a sum is several times cheaper; only a suspicious one is looked into
        if not bool(torch.isfinite(value).all()):
            index = torch.nonzero(~torch.isfinite(value))[0].tolist()
            raise ValueError(f'it has a non-finite value at index {index}')

    return check


def _depth(value: Any) -> None:
    _tensor(torch.float32, (3,), '[1, H, W]')(value)
    if value.shape[0] != 1:
        raise ValueError(f'expected one channel of depth, got {list(value.shape)}')


def _text(value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f'got {type(value).__name__}')


_CHECKS: dict[str, Callable[[Any], None]] = {
    'image': _tensor(torch.uint8, (3, 4), '[C, H, W] or [T, C, H, W]'),
    'depth': _depth,
    'waveform': _tensor(torch.float32, (1,), '[T]'),
    'text': _text,
    'features': _tensor(torch.float32, (1, 2, 3), '[D]'),
}


def check_packed(value: Any, kind: str) -> None:
    """Check a packed value against the table in docs/architecture.md; None (missing) passes.

    A kind that is not in the table (a user's own) passes.

    Raises:
        ValueError: wrong dtype or shape, empty, or non-finite.
        TypeError: not loaded at all.
    """
    if value is None or kind not in _CHECKS:
        return
    try:
        _CHECKS[kind](value)
    except TypeError as e:
        raise TypeError(
            f'it is not loaded as {kind} ({e}); put {_LOADERS[kind]} before PackInputs'
        ) from e


@TRANSFORMS.register_module()
class PackInputs(BaseTransform):
    """Pack ``results`` as ``{'inputs': {m: value or None}, 'data_samples': sample}``.

    Values must be of the packed kind (docs/architecture.md). Missing ones are None and listed in
    ``sample.missing``. ``results['features']`` ({m: cached output of a frozen encoder}), if there,
    is passed on as ``features``.

    Args:
        modalities: which to pack; None for all that the dataset reads.

    Raises:
        SampleError: a value of the wrong type, dtype or shape, or with non-finite entries.
    """

    separable = True
    repeatable = True

    def __init__(self, modalities: Sequence[str] | None = None) -> None:
        self.modalities = None if modalities is None else tuple(modalities)

    def transform(self, results: dict) -> dict[str, Any]:
        """The packed sample."""
        kinds = results['kinds']
        names = sorted(self.modalities if self.modalities is not None else kinds)
        inputs = {}
        for name in names:
            value = results.get(name)
            try:
                check_packed(value, kinds.get(name, ''))
            except (TypeError, ValueError) as e:
                raise sample_error(results, name, e) from e
            inputs[name] = value.contiguous() if isinstance(value, torch.Tensor) else value
        sample = MultiModalDataSample.of(
            results['sample_id'],
            results['label'],
            results.get('group', ''),
            tuple(name for name in names if inputs[name] is None),
        )
        packed: dict[str, Any] = {'inputs': inputs, 'data_samples': sample}
        if 'features' in results:
            packed['features'] = results['features']
        return packed

    def __repr__(self) -> str:
        return f'PackInputs(modalities={self.modalities})'
