"""What encoders that do not learn said of every value, so that none is encoded twice: in a run
from memory, in later runs and other processes from the disk.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cal_mm.models.encoders.cache import cache_key
from cal_mm.models.encoders.origin import NoDigestError, encoding_facts
from cal_mm.models.encoders.value_store import ValueStore

__all__ = ['FeatureMemo', 'value_key']

logger = logging.getLogger(__name__)

#: elements of the input that a CPU core encodes at once. Activations of larger batches leave the
#: caches, and the C library hands their memory back to the system after every layer: the same
#: EfficientNet took 20 ms an image in batches of 4 and 60 ms in batches of 64.
_CPU_ELEMENTS = 4 * 3 * 224 * 224
_CPU_AT_MOST = 64
#: values without a size (texts) at once on a CPU
_CPU_TEXTS = 16


def value_key(value: Any) -> Hashable | None:
    """What tells packed values apart: the text itself, a digest of a tensor's bits; else None."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Tensor):
        return None
    flat = value.detach().cpu().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b''
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return str(value.dtype), tuple(value.shape), digest


class FeatureMemo:
    """Outputs of encoders by the exact value that was encoded.

    A feature is found again wherever the same bits come back: an untouched value in any condition,
    or one noise that several conditions share. Only values that were not seen before are encoded:
    on an accelerator together, on a CPU in small batches, one core each. (Cores that share one
    batch wait for each other in every layer; where other programs run, that costs several times
    the work itself.) So a feature does not depend on the number of cores, nor, for images and depth
    with the shipped encoders on the machines we tried, on the other values in the batch. Texts are
    padded to the longest beside them, which changes a feature by rounding, about 1e-6 of the
    features' size; so does a whole batch against small ones.

    For encoders with ``frozen = True``, whose output is a function of the sample alone and whose
    ``forward`` may run in several threads; with ``trained`` for all of which this is true in
    evaluation mode (``BaseEncoder.sample_wise``), as long as nothing changes their weights.

    Args:
        model: with ``encoders`` {m: module} and a ``data_preprocessor`` with a method
            ``front_end_output``; any other model is left alone.
        max_bytes: features kept in memory at most; those that were not asked for longest go first.
        folder: of files that keep what frozen encoders said for later runs and other processes,
            under everything that it depends on; None: nothing is kept.
        folder_bytes: of these files at most.
        trained: not only frozen encoders.
    """

    def __init__(
        self,
        model: nn.Module,
        max_bytes: int = 2**28,
        folder: str | Path | None = None,
        folder_bytes: int = 2**30,
        trained: bool = False,
    ) -> None:
        self._model: Any = model
        self._folder, self._folder_bytes = folder, folder_bytes
        self._stores: dict[str, ValueStore | None] = {}
        encoders: Any = getattr(model, 'encoders', None) or {}
        self._preprocessor: Any = getattr(model, 'data_preprocessor', None)
        usable = hasattr(self._preprocessor, 'front_end_output')
        frozen = {m for m, e in encoders.items() if getattr(e, 'frozen', False)}
        others = {m for m, e in encoders.items() if trained and getattr(e, 'sample_wise', False)}
        self._encoders: dict[str, Any] = {
            m: e for m, e in encoders.items() if usable and m in frozen | others
        }
        # what outlives the run: the others' weights are those of this model alone
        self._storable = frozen
        self._known: OrderedDict[tuple[str, Hashable], Tensor] = OrderedDict()
        self._max_bytes = max_bytes
        self._bytes = 0
        #: values that went through an encoder, by modality
        self.encoded = dict.fromkeys(self._encoders, 0)

    def serve(self, batch: dict, attacked: Sequence[str] = ()) -> dict:
        """``batch`` with ``features`` {m: [tensor [H_m] or None]} of these encoders.

        Args:
            batch: collated. Features that it holds already are kept.
            attacked: modalities that an attack on the model will change, or has changed; they are
                left to the model.
        """
        held = batch.get('features') or {}
        found = {
            name: self._features(name, batch['inputs'][name], batch['data_samples'])
            for name in self._encoders
            if name in batch['inputs'] and name not in attacked and name not in held
        }
        return {**batch, 'features': {**found, **held}} if found else batch

    def _features(
        self, name: str, values: Sequence[Any], samples: Sequence[Any]
    ) -> list[Tensor | None]:
        keys: list[Any] = []
        for i, value in enumerate(values):
            key = None if value is None else value_key(value)
            # an object without a key is encoded every time
            keys.append((name, i, object()) if key is None else (name, key))
        found: dict[Any, Tensor] = {}
        todo: dict[Any, int] = {}
        store = self._store(name)
        for i, key in enumerate(keys):
            if values[i] is None or key in found or key in todo:
                continue
            known = self._recall(key, store)
            if known is None:
                todo[key] = i
            else:
                found[key] = known
        if todo:
            new = self._encode(name, list(todo.values()), values, samples)
            found.update(zip(todo, new, strict=True))
            for key, feature in zip(todo, new, strict=True):
                if len(key) == 2:
                    self._keep(key, feature)
                    if store is not None:
                        store.add(key[1], feature)
        return [found.get(key) for key in keys]

    def _recall(self, key: Any, store: ValueStore | None) -> Tensor | None:
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        return store.get(key[1]) if store is not None and len(key) == 2 else None

    def _store(self, name: str) -> ValueStore | None:
        """What the disk knows, read when it is first asked for."""
        if self._folder is None or name not in self._storable:
            return None
        if name not in self._stores:
            self._stores[name] = None
            try:
                key = cache_key(**encoding_facts(self._model, name))
            except NoDigestError as e:
                logger.warning('features of %r are not kept on the disk: %s', name, e)
            else:
                store = ValueStore(self._folder, name, key, self._folder_bytes)
                store.refresh()
                self._stores[name] = store
        return self._stores[name]

    def flush(self) -> None:
        """Write what is new to the disk, and read what other processes have written."""
        for store in self._stores.values():
            if store is not None:
                store.flush()
                store.refresh()

    @torch.no_grad()
    def _encode(
        self, name: str, rows: list[int], values: Sequence[Any], samples: Sequence[Any]
    ) -> list[Tensor]:
        """Features of ``values`` at ``rows``, in that order."""
        # texts of one length together need no padding
        order = sorted(rows, key=lambda i: len(values[i]) if isinstance(values[i], str) else 0)
        size = self._chunk(values[order[0]])

        def inputs() -> Iterator[tuple[Tensor, Tensor | None]]:
            for start in range(0, len(order), size):
                part = order[start : start + size]
                yield self._preprocessor.front_end_output(
                    name, [values[i] for i in part], [samples[i] for i in part]
                )

        if self._on_cpu:
            outputs = _one_core_each(self._encoders[name], inputs())
        else:
            outputs = [self._encoders[name](x, mask) for x, mask in inputs()]
        out = torch.cat([o.float().cpu() for o in outputs])
        self.encoded[name] += len(rows)
        found = dict(zip(order, out, strict=True))
        return [found[i].clone() for i in rows]

    @property
    def _on_cpu(self) -> bool:
        return self._preprocessor.device.type == 'cpu'

    def _chunk(self, value: Any) -> int:
        if not self._on_cpu:
            return 2**31  # an accelerator wants all there is
        if isinstance(value, Tensor):
            return max(1, min(_CPU_AT_MOST, _CPU_ELEMENTS // max(1, value.numel())))
        return _CPU_TEXTS

    def _keep(self, key: tuple[str, Hashable], feature: Tensor) -> None:
        self._known[key] = feature
        self._bytes += feature.numel() * feature.element_size()
        while self._bytes > self._max_bytes and self._known:
            _, oldest = self._known.popitem(last=False)
            self._bytes -= oldest.numel() * oldest.element_size()


def _one_core_each(
    encoder: nn.Module, inputs: Iterator[tuple[Tensor, Tensor | None]]
) -> list[Tensor]:
    """``encoder`` on every pair of ``inputs``, as many at once as torch has threads."""
    threads = torch.get_num_threads()
    cast = torch.is_autocast_enabled('cpu')
    dtype = torch.get_autocast_dtype('cpu')

    def encode(x: Tensor, mask: Tensor | None) -> Tensor:
        # these modes belong to a thread
        with torch.no_grad(), torch.autocast('cpu', dtype=dtype, enabled=cast):
            return encoder(x, mask)

    if threads == 1:
        return [encode(x, mask) for x, mask in inputs]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            # front ends stay in this thread: tokenisers must not run in two
            return [f.result() for f in [pool.submit(encode, x, mask) for x, mask in inputs]]
    finally:
        torch.set_num_threads(threads)
