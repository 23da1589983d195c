"""From a collated batch to tensors on the device: one front end per modality."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from cal_mm.registry import FRONTENDS, MODELS, suggestion

from .encoders.embedding import placed_shifts
from .frontends.base import FrontEndError, check_finite, fault_in

__all__ = ['MultiModalPreprocessor']

_MAX_DIMS = 6
#: columns of ``seen``: 1 for integer ids, dimensions of the mask, of x, then the sizes of x
_SEEN_WIDTH = 3 + _MAX_DIMS


@MODELS.register_module()
class MultiModalPreprocessor(BaseDataPreprocessor):
    """Stack, pad, normalise and transform each modality on the device, in float32.

    Takes ``{'inputs': {m: [packed value or None]}, 'data_samples': [sample]}`` and optionally
    ``'features': {m: [tensor [H_m] or None]}`` (cached outputs of frozen encoders, or one tensor
    [B, H_m]; that modality's front end is then skipped). Modalities without a front end are
    ignored.

    Returns a dict with:

    - ``inputs``: {m: [B, ...]}; a missing value is zeros (padding ids for text),
    - ``masks``: {m: [B, ...] or None}; a missing value keeps its first position, so that no encoder
      divides by zero or attends to nothing,
    - ``present``: bool [B, M] over the sorted modalities, or None when nothing is missing,
    - ``features``: {m: [B, H_m]} or None,
    - ``data_samples``: as given (they stay on the CPU),
    - ``embedding_shifts``: {m: [B, L, E]}, only where the batch holds ``'embedding_shifts': {m:
      [tensor [tokens, E] or None]}`` (or one tensor [B, L, E]): what an attack adds to the token
      embeddings of a text. Such a modality is encoded anew, whatever is cached.

    When a whole batch lacks a modality, the front end's ``empty`` or else the shape of the first
    batch seen says what the zeros look like; that shape is part of the state dict (buffer
    ``seen``).

    Args:
        frontends: modality -> config of its front end.
        non_blocking: copy to the device asynchronously.
    """

    seen: Tensor
    seen_widths: Tensor

    def __init__(self, frontends: Mapping[str, Any], non_blocking: bool = True) -> None:
        super().__init__(non_blocking=non_blocking)
        if not frontends:
            raise ValueError(
                'frontends needs at least one modality: dict(image=dict(type=...), ...)'
            )
        self.modalities: tuple[str, ...] = tuple(sorted(frontends))
        self.frontends = nn.ModuleDict()
        for name in self.modalities:
            cfg = frontends[name]
            built = FRONTENDS.build(dict(cfg)) if isinstance(cfg, Mapping) else cfg
            try:
                self.frontends[name] = built
            except KeyError as e:
                raise ValueError(f'{name!r} cannot name a modality ({e.args[0]})') from e
        seen = torch.zeros(len(self.modalities), _SEEN_WIDTH, dtype=torch.int64)
        self.register_buffer('seen', seen)
        self.register_buffer('seen_widths', torch.zeros(len(self.modalities), dtype=torch.int64))
        self._recorded = [False] * len(self.modalities)
        self._recorded_widths = [False] * len(self.modalities)

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Process one collated batch; ``training`` changes nothing.

        Raises:
            LookupError: the batch lacks a modality that has a front end.
            ValueError: values that the front end cannot take; names the modality and the samples.
        """
        inputs, samples = data['inputs'], data.get('data_samples')
        shifts = {m: s for m, s in (data.get('embedding_shifts') or {}).items() if not _empty(s)}
        cached = data.get('features') or {}
        xs: dict[str, Tensor] = {}
        masks: dict[str, Tensor | None] = {}
        features: dict[str, Tensor] = {}
        absent: dict[int, list[int]] = {}
        count = 0
        with torch.autocast(self.device.type, enabled=False):
            for column, name in enumerate(self.modalities):
                known_features = None if name in shifts else cached.get(name)
                stored = self._stored(known_features, inputs.get(name))
                values = self._values(inputs, name) if stored is None else stored
                count, missing = len(values), _missing(values)
                if missing:
                    absent[column] = missing
                if stored is not None:
                    known = self._features(column, name, stored, missing, samples)
                    if known is not None:
                        features[name] = known
                        continue
                xs[name], masks[name] = self._batch(column, name, values, missing, samples)
        out = dict(
            inputs=xs,
            masks=masks,
            present=self._present(absent, count),
            features=features or None,
            data_samples=samples,
        )
        if shifts:
            out['embedding_shifts'] = {
                m: placed_shifts(m, shift, xs[m], masks[m]) for m, shift in shifts.items()
            }
        return out

    def front_end_output(
        self, name: str, values: Sequence[Any], samples: Sequence[Any] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """One modality's share of ``forward``: x [B, ...] and mask of values that are all there.

        Args:
            name: the modality.
            values: B packed values.
            samples: their data samples, for the message of an error.

        Raises:
            ValueError: values that the front end cannot take; names the modality and the samples.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._batch(self.modalities.index(name), name, values, [], samples)

    @contextmanager
    def not_recording(self) -> Iterator[None]:
        """Inside, no shape is taken down from the batches that pass."""
        flags = self._recorded, self._recorded_widths
        everything = [True] * len(self.modalities)
        self._recorded, self._recorded_widths = everything, list(everything)
        try:
            yield
        finally:
            self._recorded, self._recorded_widths = flags

    @staticmethod
    def _stored(features: Any, values: Sequence[Any] | None) -> Any:
        """Cached features of a modality, or None if they do not say what its values say.

        A corruption that changes a value takes the cached feature away; then the whole batch goes
        through the front end and the encoder.
        """
        if features is None or isinstance(features, Tensor) or values is None:
            return features
        stale = any(f is None and v is not None for f, v in zip(features, values, strict=True))
        return None if stale else features

    def _values(self, inputs: Mapping[str, Any], name: str) -> Sequence[Any]:
        if name not in inputs:
            known = sorted(inputs)
            raise LookupError(
                f'the batch has no modality {name!r}, which the model has a front end for.'
                f'{suggestion(name, known)} It has: {", ".join(known) or "none"}. '
                f"Set the dataset's modalities or the preprocessor's frontends."
            )
        return inputs[name]

    def _present(self, absent: dict[int, list[int]], count: int) -> Tensor | None:
        if not absent:
            return None
        present = torch.ones(count, len(self.modalities), dtype=torch.bool)
        for column, rows in absent.items():
            present[rows, column] = False
        return present.to(self.device, non_blocking=self._non_blocking)

    def _batch(
        self,
        column: int,
        name: str,
        values: Sequence[Any],
        missing: list[int],
        samples: Sequence[Any] | None,
    ) -> tuple[Tensor, Tensor | None]:
        if len(missing) == len(values):
            return self._nothing(column, name, len(values))
        held = _others(len(values), missing)
        x, mask = self._front_end(
            name, [values[i] for i in held] if missing else values, held, samples
        )
        if not self._recorded[column]:
            self._record(column, x, mask)
        if not missing:
            return x, mask
        x = _spread(x, held, len(values), getattr(self.frontends[name], 'pad_value', 0))
        if mask is not None:
            mask = _spread(mask, held, len(values))
            mask[missing, 0] = True
        return x, mask

    def _front_end(
        self, name: str, values: Sequence[Any], held: Sequence[int], samples: Sequence[Any] | None
    ) -> tuple[Tensor, Tensor | None]:
        try:
            front_end: Any = self.frontends[name]
            x, mask = front_end(values)
        except torch.OutOfMemoryError:
            raise
        except Exception as e:
            raise self._explained(name, values, held, samples, e) from e
        device, later = self.device, self._non_blocking
        x = x.to(device, non_blocking=later)
        return x, None if mask is None else mask.to(device, non_blocking=later)

    def _explained(
        self,
        name: str,
        values: Sequence[Any],
        held: Sequence[int],
        samples: Sequence[Any] | None,
        error: Exception,
    ) -> ValueError:
        """The error of a front end, with the ids of the samples that it concerns."""
        fault: Exception | None = error
        if not isinstance(error, FrontEndError) and isinstance(values[0], Tensor):
            fault = fault_in(values) or error
        chosen = getattr(fault, 'indices', ()) or range(len(values))
        ids = _ids([held[i] for i in chosen], samples)
        kind = type(self.frontends[name]).__name__
        return ValueError(f'modality {name!r} ({kind}), {ids}: {fault}')

    def _record(self, column: int, x: Tensor, mask: Tensor | None) -> None:
        """Remember the shape of the first batch, for batches that lack the modality."""
        self._recorded[column] = True
        if int(self.seen[column, 2]) or x.ndim - 1 > _MAX_DIMS:
            return
        row = [
            int(not x.is_floating_point()),
            0 if mask is None else mask.ndim,
            x.ndim,
            *x.shape[1:],
        ]
        row += [0] * (_SEEN_WIDTH - len(row))
        self.seen[column] = torch.tensor(row, dtype=torch.int64)

    def _nothing(self, column: int, name: str, count: int) -> tuple[Tensor, Tensor | None]:
        """What a batch without the modality looks like."""
        empty = getattr(self.frontends[name], 'empty', None)
        known = empty(count) if empty is not None else None
        integer, mask_dims, dims, *sizes = self.seen[column].tolist()
        # a shape that the encoder has taken is the surest; texts of one length are not needed again
        if known is not None and (known[1] is not None or not dims):
            return known
        if not dims:
            raise ValueError(
                f'modality {name!r} is missing in every sample of this batch and no batch with it '
                'has been seen, so its shape is not known: load a checkpoint, run one batch that '
                f'has it first, or give {type(self.frontends[name]).__name__} what tells its shape '
                '(size=...)'
            )
        dtype = torch.int64 if integer else torch.float32
        x = torch.zeros(count, *sizes[: dims - 1], dtype=dtype, device=self.device)
        if not mask_dims:
            return x, None
        mask = torch.zeros(x.shape[:mask_dims], dtype=torch.bool, device=self.device)
        mask[:, 0] = True
        return x, mask

    def _features(
        self,
        column: int,
        name: str,
        values: Any,
        missing: list[int],
        samples: Sequence[Any] | None,
    ) -> Tensor | None:
        """Cached encoder outputs [B, H_m]; None if all are missing and H_m is not known."""
        if isinstance(values, Tensor):
            return values.float().to(self.device, non_blocking=self._non_blocking)
        held = _others(len(values), missing)
        kept = [values[i] for i in held] if missing else values
        if not kept:
            width = int(self.seen_widths[column])
            return torch.zeros(len(values), width, device=self.device) if width else None
        try:
            x = torch.stack(tuple(kept)).float()
            check_finite(x, kept)
        except Exception as e:
            fault = fault_in(kept) or e
            chosen = getattr(fault, 'indices', ()) or range(len(kept))
            ids = _ids([held[i] for i in chosen], samples)
            raise ValueError(f'modality {name!r} (cached features), {ids}: {fault}') from e
        if not self._recorded_widths[column]:
            self._recorded_widths[column] = True
            self.seen_widths[column] = x.shape[-1]
        x = x.to(self.device, non_blocking=self._non_blocking)
        return x if not missing else _spread(x, held, len(values))

    def fit(self, dataset: Any) -> None:
        """Check the front ends against a training dataset and give them its statistics.

        A front end with a method ``fit`` that is not ``fitted`` gets ``mean`` and ``std`` from the
        manifest, or computed over ``dataset``.

        Args:
            dataset: a ``MultiModalDataset``, a dataset of one's own with
                ``metainfo['modalities']``, or a loader or wrapper around one.

        Raises:
            LookupError: the dataset lacks a modality that has a front end.
            ValueError: a front end takes another kind than the dataset has.
        """
        # imported late, so that models do not need the data side
        from cal_mm.datasets import described_datasets, feature_statistics

        found = described_datasets(dataset)
        if not found:
            raise TypeError(
                f'there is no MultiModalDataset behind {type(dataset).__name__}, nor a dataset of '
                f"your own whose metainfo['modalities'] maps each name to dict(kind=...)"
            )
        facts = found[0].metainfo['modalities']
        for name in self.modalities:
            self._values(facts, name)
            front_end: Any = self.frontends[name]
            kind, expected = facts[name]['kind'], getattr(front_end, 'kind', '')
            # a transform may compute one kind from another: ComputeSpectrogram, DepthToHHA
            computed = (kind, expected) in (('waveform', 'features'), ('depth', 'image'))
            if expected and kind != expected and not computed:
                raise ValueError(
                    f'modality {name!r} is of the kind {kind!r}, but {type(front_end).__name__} '
                    f'takes {expected!r}'
                )
            if hasattr(front_end, 'fit') and not getattr(front_end, 'fitted', False):
                known = {'mean', 'std'} <= set(facts[name])
                front_end.fit(facts[name] if known else feature_statistics(found[0], name))


def _missing(values: Sequence[Any]) -> list[int]:
    if isinstance(values, Tensor):
        return []
    return [i for i, value in enumerate(values) if value is None]


def _empty(shifts: Any) -> bool:
    return not isinstance(shifts, Tensor) and all(s is None for s in shifts)


def _others(count: int, missing: list[int]) -> Sequence[int]:
    if not missing:
        return range(count)
    gone = set(missing)
    return [i for i in range(count) if i not in gone]


def _spread(x: Tensor, rows: Sequence[int], count: int, fill: int = 0) -> Tensor:
    """[count, ...] of ``fill`` with ``x`` at ``rows``; differentiable."""
    index = torch.as_tensor(list(rows), device=x.device)
    return x.new_full((count, *x.shape[1:]), fill).index_copy(0, index, x)


def _ids(rows: Sequence[int], samples: Sequence[Any] | None) -> str:
    names = [
        str(getattr(samples[i], 'sample_id', i)) if samples is not None else str(i) for i in rows
    ]
    shown = ', '.join(repr(name) for name in names[:8])
    more = f' and {len(names) - 8} more' if len(names) > 8 else ''
    return f'{"samples" if len(names) != 1 else "sample"} {shown}{more}'
