"""Reaching the datasets behind loaders and wrappers, and their statistics."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mmengine.dataset import ClassBalancedDataset, RepeatDataset
from torch.utils.data import Subset

from .multimodal_dataset import MultiModalDataset

__all__ = [
    'column_of',
    'dataset_of',
    'datasets_of',
    'described_datasets',
    'feature_statistics',
    'needed_column',
    'nested_datasets',
    'set_dataset_epoch',
    'wrapped_datasets',
]


def datasets_of(holder: Any) -> list[MultiModalDataset]:
    """Every ``MultiModalDataset`` behind ``holder``, in order.

    Unwraps data loaders, mmengine's ``ConcatDataset``, ``RepeatDataset``, ``ClassBalancedDataset``,
    torch's ``Subset`` and whatever else holds a ``dataset`` or ``datasets``.
    """
    if isinstance(holder, MultiModalDataset):
        return [holder]
    return [found for item in _held(holder) for found in datasets_of(item)]


def described_datasets(holder: Any) -> list[Any]:
    """Every dataset behind ``holder`` that tells its modalities, in order: also a user's own.

    Such a dataset has ``metainfo['modalities']``, {name: {'kind': ..., ...}}.
    """
    prepared = datasets_of(holder)
    if prepared:
        return list(prepared)
    found = [leaf for item in _held(holder) for leaf in described_datasets(item)]
    info = getattr(holder, 'metainfo', None)
    own = isinstance(info, Mapping) and isinstance(info.get('modalities'), Mapping)
    return found or ([holder] if own else [])


def nested_datasets(holder: Any) -> list[Any]:
    """``holder`` and every dataset behind it, each before what it holds."""
    whole = _sliced(holder)
    held = _held(holder) if whole is None else [whole]
    return [holder, *(found for item in held for found in nested_datasets(item))]


def wrapped_datasets(holder: Any) -> list[Any]:
    """What a wrapper of mmengine's or torch's holds, in order; nothing for any other dataset."""
    if type(holder).__module__.partition('.')[0] not in ('mmengine', 'torch'):
        return []
    whole = _sliced(holder)
    return _held(holder) if whole is None else [whole]


def _held(holder: Any) -> list[Any]:
    inner = getattr(holder, 'datasets', None)
    if inner is None:
        one = getattr(holder, 'dataset', None)
        inner = [] if one is None else [one]
    return list(inner)


def _sliced(holder: Any) -> Any:
    """What mmengine cut for ``num_batch_per_epoch`` (a private class of its Runner); else None."""
    return holder._dataset if type(holder).__name__ == '_SlicedDataset' else None


def dataset_of(holder: Any) -> MultiModalDataset:
    """The one ``MultiModalDataset`` behind ``holder``.

    Raises:
        TypeError: there is none, or there are several (then use ``datasets_of``).
    """
    found = datasets_of(holder)
    if len(found) != 1:
        raise TypeError(
            f'expected one MultiModalDataset behind {type(holder).__name__}, found {len(found)}'
            + ('; use datasets_of for several' if found else '')
        )
    return found[0]


def needed_column(dataset: Any, name: str, why: str, instead: str) -> np.ndarray:
    """:func:`column_of`, where there is no way without it.

    Args:
        dataset: see there.
        name: see there.
        why: what needs it, the start of the message.
        instead: what else the user could do, its end.

    Raises:
        ValueError: the dataset does not tell.
    """
    found = column_of(dataset, name)
    if found is None:
        kind = 'int [N]' if name == 'labels' else 'N strings'
        raise ValueError(
            f'{why}: give {type(dataset).__name__} a property `{name}` ({kind}), or {instead}'
        )
    return found


def column_of(holder: Any, name: str) -> np.ndarray | None:
    """One fact of every sample of ``holder``, in its order, without decoding a sample.

    Looks through ``Subset``, ``ConcatDataset``, ``RepeatDataset``, ``ClassBalancedDataset`` and the
    part that a loader's ``num_batch_per_epoch`` leaves.

    Args:
        holder: a dataset, or a wrapper of one or of several.
        name: ``labels``, ``groups`` or ``sample_ids``.

    Returns:
        [N], or None where a dataset behind it does not tell (a user's own without such a property).

    Raises:
        ValueError: a dataset tells another number of them than it has samples.
    """
    whole = _sliced(holder)
    if whole is not None:
        found = column_of(whole, name)
        return None if found is None else found[: len(holder)]
    own = getattr(holder, name, None)
    if own is not None:
        found = np.asarray(own)
        if found.shape != (len(holder),):
            raise ValueError(
                f'{type(holder).__name__}.{name} must have one entry for each of its '
                f'{len(holder)} samples, got the shape {list(found.shape)}'
            )
        return found
    if hasattr(holder, 'datasets'):
        parts = [column_of(inner, name) for inner in holder.datasets]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if known and len(known) == len(parts) else None
    inner = column_of(holder.dataset, name) if hasattr(holder, 'dataset') else None
    if inner is None:
        return None
    if isinstance(holder, Subset):
        return inner[np.asarray(holder.indices, dtype=np.int64)]
    if isinstance(holder, RepeatDataset):
        return np.tile(inner, holder.times)
    if isinstance(holder, ClassBalancedDataset):
        return inner[np.asarray(holder.repeat_indices, dtype=np.int64)]
    # a wrapper of somebody's own: it keeps the order only if it keeps the number
    return inner if len(inner) == len(holder) else None


def set_dataset_epoch(holder: Any, epoch: int) -> None:
    """Set the augmentation epoch of every dataset behind ``holder``.

    Datasets of users count too, if they have ``set_epoch``.
    """
    if hasattr(holder, 'set_epoch'):
        holder.set_epoch(epoch)
        return
    for item in _held(holder):
        set_dataset_epoch(item, epoch)


def _raw_features(dataset: Any, modality: str) -> Iterator[tuple[str, Any]]:
    """(sample id, value or None) of every sample; a user's own dataset has no rows but items."""
    for i in range(len(dataset)):
        if isinstance(dataset, MultiModalDataset):
            info = dataset.get_data_info(i)
            yield info['sample_id'], dataset.rows.row(info['row'])[modality]
        else:
            item = dataset[i]
            yield item['data_samples'].sample_id, item['inputs'][modality]


def feature_statistics(dataset: Any, modality: str) -> dict[str, np.ndarray]:
    """Mean and standard deviation of a ``features`` modality over ``dataset``'s samples.

    Read the training split, never the test split. Missing values are left out.

    Args:
        dataset: a ``MultiModalDataset``, or one of :func:`described_datasets`.
        modality: name.

    Returns:
        ``{'mean': [D], 'std': [D]}``, float32, over samples (and over time for [T, D] features).

    Raises:
        ValueError: the modality is not of the kind ``features``, has non-finite values or none.
    """
    all_kinds = {m: facts['kind'] for m, facts in dataset.metainfo['modalities'].items()}
    if all_kinds.get(modality) != 'features':
        kinds = ', '.join(f'{m} ({k})' for m, k in all_kinds.items())
        raise ValueError(f'{modality!r} is no modality of kind features here; there are: {kinds}')
    rows = []
    for sample_id, value in _raw_features(dataset, modality):
        if value is None:
            continue
        array = np.asarray(value, dtype=np.float64)
        if not np.isfinite(array).all():
            raise ValueError(f'sample {sample_id!r}: modality {modality!r} has non-finite values')
        rows.append(array.reshape(-1, array.shape[-1]))
    if not rows:
        raise ValueError(f'modality {modality!r} is missing in every sample of {dataset!r}')
    stacked = np.concatenate(rows)
    mean, std = stacked.mean(axis=0), stacked.std(axis=0)
    return {'mean': mean.astype(np.float32), 'std': std.astype(np.float32)}
