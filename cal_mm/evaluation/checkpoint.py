"""Loading weights of a trained model: all of them, or an error that says what does not fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cal_mm.compat import load_trusted_types
from cal_mm.wrapping import unwrap

__all__ = ['CheckpointMismatchError', 'fit_weights', 'load_weights']

_SHOWN = 3


class CheckpointMismatchError(ValueError):
    """The weights of a checkpoint do not belong to the model of the config."""


def load_weights(model: torch.nn.Module, path: str | Path) -> dict[str, Any]:
    """Load ``path`` into ``model``, strictly.

    Args:
        model: the model, wrapped or not.
        path: a checkpoint of mmengine's, ``{'state_dict', 'meta'}``, or a bare state_dict.

    Returns:
        The checkpoint's ``meta`` (epoch, iter, ...), empty where it has none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is truncated, no checkpoint, or holds more than weights and plain values.
        CheckpointMismatchError: names the first keys that are missing, unexpected or of another
            shape, and says what to do.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no checkpoint {path}; tools/train.py writes *.pth files')
    loaded = load_trusted_types(str(path), map_location='cpu')
    weights = loaded.get('state_dict', loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(weights, Mapping) or not any(map(torch.is_tensor, weights.values())):
        raise CheckpointMismatchError(
            f"{path} holds no weights: expected {{'state_dict': ..., 'meta': ...}} as "
            f'tools/train.py writes it, or a bare state_dict'
        )
    fit_weights(model, weights, path)
    meta = loaded.get('meta', {}) if 'state_dict' in loaded else {}
    return dict(meta or {})


def fit_weights(model: torch.nn.Module, weights: Mapping[str, Any], path: str | Path) -> None:
    """Load ``weights`` strictly; ``path`` is for the message.

    Raises:
        CheckpointMismatchError: see :func:`load_weights`.
    """
    target = unwrap(model)
    try:
        # modules may fit themselves to the file (front ends that learn their width), so they decide
        target.load_state_dict(dict(weights), strict=True)
    except RuntimeError as e:
        problems = _differences(weights, target.state_dict(), str(e)) or [str(e)]
        raise CheckpointMismatchError(
            f'{path} is not a checkpoint of the model in this config. {" ".join(problems)} '
            f'Give the config that it was trained with (tools/train.py leaves a copy in its work '
            f'directory), with the same --cfg-options.'
        ) from e


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any], refusal: str) -> list[str]:
    """One sentence per way in which the keys or shapes differ; ``refusal`` is torch's error."""
    missing = [k for k in expected if k not in found]
    unexpected = [k for k in found if k not in expected]
    shapes = [
        f'{k} {_shape(found[k])} where the model has {_shape(expected[k])}'
        for k in expected
        if k in found and f'size mismatch for {k}:' in refusal
    ]
    named = (
        ('Missing', missing, len(expected)),
        ('Unexpected', unexpected, len(found)),
        ('Of another shape', shapes, len(expected)),
    )
    return [f'{what} ({len(keys)} of {n}): {_first(keys)}.' for what, keys, n in named if keys]


def _shape(value: Any) -> list[int] | str:
    # extra state of a module is no tensor
    return list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


def _first(keys: list[str]) -> str:
    more = len(keys) - _SHOWN
    return ', '.join(keys[:_SHOWN]) + (f' and {more} more' if more > 0 else '')
