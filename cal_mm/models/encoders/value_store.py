"""Features by the value that was encoded, on the disk: what one run encoded, the next one finds."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Hashable
from pathlib import Path

import torch
from torch import Tensor

from cal_mm.files import locked, write_atomically

__all__ = ['ValueStore']

logger = logging.getLogger(__name__)

FORMAT = 'cal_mm.features_by_value'
FORMAT_VERSION = 1
_DIGEST = 32
#: so many files of one key are put together
_MANY = 16


class ValueStore:
    """One modality's features, float32 [H], by the exact value, in files that processes share.

    ``<folder>/values/<modality>-<start of the key>/`` holds any number of safetensors files, each
    written once, whole, under the digest of what is in it: writers need no lock, and a reader that
    comes later sees what others have written. Only putting files together and keeping the size
    takes a lock. A file that is torn, altered or another key's gets one warning and the ending
    ``.bad``; its values are encoded again.

    Args:
        folder: of the cache.
        modality: the modality's name.
        key: what the features depend on beside the value, see
            :func:`cal_mm.models.encoders.origin.encoding_facts`.
        max_bytes: of all files under ``<folder>/values``; the longest unused go first.
    """

    def __init__(self, folder: str | Path, modality: str, key: str, max_bytes: int = 2**30) -> None:
        self.root = Path(folder) / 'values'
        self.folder = self.root / f'{modality}-{key[:16]}'
        self.modality = modality
        self.key = key
        self.max_bytes = max_bytes
        self._rows: dict[bytes, Tensor] = {}
        self._new: dict[bytes, Tensor] = {}
        self._seen: set[str] = set()

    def __len__(self) -> int:
        return len(self._rows) + len(self._new)

    @staticmethod
    def digest(value_key: Hashable) -> bytes:
        """32 bytes for a key of :func:`cal_mm.engine.feature_memo.value_key`."""
        plain = value_key if isinstance(value_key, str) else repr(value_key)
        kind = b's' if isinstance(value_key, str) else b't'
        return hashlib.sha256(kind + plain.encode('utf-8', 'surrogatepass')).digest()

    def get(self, value_key: Hashable) -> Tensor | None:
        """A copy of the value's feature [H], or None."""
        digest = self.digest(value_key)
        row = self._rows.get(digest)
        row = self._new.get(digest) if row is None else row
        return None if row is None else row.clone()

    def add(self, value_key: Hashable, feature: Tensor) -> None:
        """Keep a feature [H]; on the disk with the next :meth:`flush`. Not finite: it is not."""
        row = feature.detach().cpu()
        digest = self.digest(value_key)
        if row.dtype == torch.float32 and bool(row.isfinite().all()) and digest not in self._rows:
            self._new[digest] = row.clone()

    def refresh(self) -> None:
        """Read the files that have come since the last time."""
        for _ in range(3):  # a file that goes meanwhile has come back in another
            gone = False
            for path in sorted(self.folder.glob('*.safetensors')):
                if path.name in self._seen:
                    continue
                try:
                    rows = self._read(path)
                except FileNotFoundError:
                    gone = True
                    continue
                self._seen.add(path.name)
                if rows is not None:
                    self._rows.update(rows)
                    with contextlib.suppress(OSError):
                        os.utime(path)  # the size is kept by use
            if not gone:
                return

    def flush(self) -> None:
        """Write what was added. A disk that is full costs a warning, not the run."""
        if not self._new:
            return
        try:
            self._seen.add(self._write(self._new))
            with locked(self.root / '.lock'):
                self._join()
                self._bound()
        except OSError as e:
            logger.warning('feature cache %s cannot be written (%s)', self.folder, e)
        self._rows.update(self._new)
        self._new = {}

    def _write(self, rows: dict[bytes, Tensor]) -> str:
        from safetensors.torch import save

        order = sorted(rows)
        keys = torch.frombuffer(bytearray(b''.join(order)), dtype=torch.uint8)
        features = torch.stack([rows[k] for k in order]).contiguous()
        told = _sha256(keys, features)
        meta = dict(
            format=FORMAT,
            format_version=str(FORMAT_VERSION),
            modality=self.modality,
            key=self.key,
            sha256=told,
        )
        name = f'{told[:32]}.safetensors'
        tensors = {'keys': keys.view(-1, _DIGEST), 'features': features}
        write_atomically(self.folder / name, save(tensors, metadata=meta))
        return name

    def _read(self, path: Path) -> dict[bytes, Tensor] | None:
        from safetensors import safe_open

        try:
            with safe_open(path, framework='pt') as file:
                meta = file.metadata() or {}
                keys, features = file.get_tensor('keys'), file.get_tensor('features')
            self._check(meta, keys, features)
        except FileNotFoundError:
            raise
        except Exception as e:  # whatever is wrong with a cache file: it can be made again
            logger.warning('feature cache %s is unusable (%s); encoding its values again', path, e)
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix('.bad'))
            return None
        data = keys.numpy().tobytes()
        return {data[i * _DIGEST : (i + 1) * _DIGEST]: row for i, row in enumerate(features)}

    def _check(self, meta: dict[str, str], keys: Tensor, features: Tensor) -> None:
        if meta.get('format') != FORMAT or meta.get('format_version') != str(FORMAT_VERSION):
            raise ValueError(f'no {FORMAT} file of version {FORMAT_VERSION}')
        if (meta.get('modality'), meta.get('key')) != (self.modality, self.key):
            raise ValueError(f'it belongs to another key or modality: {json.dumps(meta)[:200]}')
        shaped = keys.dim() == features.dim() == 2 and len(keys) == len(features)
        if not shaped or keys.shape[1] != _DIGEST or features.dtype != torch.float32:
            raise ValueError(f'wrong shapes {tuple(keys.shape)}, {tuple(features.shape)}')
        if _sha256(keys, features) != meta.get('sha256'):
            raise ValueError('its checksum does not fit')

    def _join(self) -> None:
        """Put many files together, under the lock; what is taken away is in the new one."""
        if len(list(self.folder.glob('*.safetensors'))) < _MANY:
            return
        rows: dict[bytes, Tensor] = {}
        old = []
        for path in sorted(self.folder.glob('*.safetensors')):
            found = self._read(path)
            if found is not None:
                rows.update(found)
                old.append(path)
        if not rows:
            return
        name = self._write(rows)
        self._rows.update(rows)
        self._seen.add(name)
        for path in old:
            if path.name != name:
                path.unlink(missing_ok=True)

    def _bound(self) -> None:
        """Take files away, under the lock, until there is room."""
        sizes = []
        for path in self.root.rglob('*'):
            with contextlib.suppress(OSError):
                if path.suffix in ('.safetensors', '.bad'):
                    stat = path.stat()
                    sizes.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in sizes)
        for _, size, path in sorted(sizes):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _sha256(keys: Tensor, features: Tensor) -> str:
    found = hashlib.sha256(str(tuple(features.shape)).encode())
    found.update(keys.contiguous().numpy().tobytes())
    found.update(features.contiguous().numpy().tobytes())
    return found.hexdigest()
