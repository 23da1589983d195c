"""What a cached feature depends on beside its input: settings, weights, code, packages, machine.

A key that leaves one of them out serves yesterday's features as today's. What cannot be told apart
(a lambda, a socket) is an error, and the caller then caches nothing.
"""

import functools
import hashlib
import inspect
import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import cal_mm
from cal_mm.versions import installed_versions

__all__ = [
    'NoDigestError',
    'class_digest',
    'encoding_facts',
    'item_facts',
    'package_digest',
    'state_of',
]

_PACKAGE = Path(cal_mm.__file__).parent
#: of the package, what decodes, corrupts and encodes; methods and losses may change freely
_SOURCES = (
    'compat.py',
    'corruptions',
    'datasets',
    'engine/feature_memo.py',
    'models/encoders',
    'models/frontends',
    'models/preprocessor.py',
    'seeding.py',
    'structures',
)
_PACKAGES = (
    'av',
    'datasets',
    'librosa',
    'mmengine',
    'numpy',
    'pillow',
    'scipy',
    'soundfile',
    'timm',
    'tokenizers',
    'torch',
    'torchvision',
    'transformers',
)
_MODULE_INTERNALS = frozenset(vars(nn.Module()))
#: attributes of a preprocessor that are told elsewhere, or only say what it has seen
_NO_SETTINGS = frozenset(
    ('_device', '_recorded', '_recorded_widths', 'device', 'frontends', 'seen', 'seen_widths')
)
_TOKENIZER = (
    'model_max_length',
    'padding_side',
    'truncation_side',
    'pad_token_id',
    'model_input_names',
)


class NoDigestError(TypeError):
    """Something has no stable text, so nothing that depends on it can be cached."""


def state_of(value: Any) -> Any:
    """``value`` as plain JSON data: equal for equal settings, in every process.

    Modules and other objects count by their class and attributes, tensors by type, shape and a
    digest of their bytes, files by path, size and time, Hugging Face tokenizers by their JSON.

    Raises:
        NoDigestError: an object, a lambda or a generator that this cannot be told of.
    """
    return _state(value, ())


def _state(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value.hex()  # NaN and infinities have no JSON
    if isinstance(value, bytes):
        return ['bytes', hashlib.sha256(value).hexdigest()]
    if isinstance(value, np.generic):
        return [str(value.dtype), value.tobytes().hex()]
    if isinstance(value, torch.dtype | torch.device | torch.memory_format):
        return str(value)
    if isinstance(value, Tensor | np.ndarray):
        return _array(value)
    if isinstance(value, Path):
        stat = value.stat() if value.is_file() else None
        return ['path', str(value), stat and [stat.st_size, stat.st_mtime_ns]]
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return ['named', _named(value)]
    if id(value) in above:
        return ['above', len(above) - above.index(id(value))]
    below = (*above, id(value))
    if isinstance(value, Mapping):
        pairs = [[_state(k, below), _state(v, below)] for k, v in value.items()]
        return ['map', sorted(pairs, key=_text)]
    if isinstance(value, set | frozenset):
        return ['set', sorted((_state(v, below) for v in value), key=_text)]
    if isinstance(value, list | tuple):
        return ['list', [_state(v, below) for v in value]]
    return _object(value, below)


def _object(value: Any, below: tuple[int, ...]) -> Any:
    if isinstance(value, functools.partial):
        parts: Any = [value.func, value.args, value.keywords]
    elif isinstance(value, MethodType):
        parts = [value.__func__, value.__self__]
    elif hasattr(value, 'backend_tokenizer'):
        parts = _tokenizer(value)
    elif isinstance(value, nn.Module):
        own = {k: v for k, v in vars(value).items() if k not in _MODULE_INTERNALS}
        # named_buffers also gives those that no state dict has
        parts = [
            own,
            dict(value.named_parameters(recurse=False)),
            dict(value.named_buffers(recurse=False)),
            dict(value.named_children()),
        ]
    elif hasattr(value, '__dict__') and type(value).__reduce__ is object.__reduce__:
        parts = vars(value)
    else:
        raise NoDigestError(
            f'{type(value).__name__} ({value!r:.80}) has no stable text, so features that '
            f'depend on it cannot be cached'
        )
    return [_named(type(value)), _state(parts, below)]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _named(value: Any) -> str:
    name = f'{value.__module__}.{value.__qualname__}'
    if '<lambda>' in name or getattr(value, '__closure__', None):
        raise NoDigestError(f'the function {name} has no stable text: name it in a module')
    return name


def _array(value: Tensor | np.ndarray) -> Any:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b''
    elif value.dtype.hasobject:
        raise NoDigestError('an array of objects has no stable text')
    else:
        data = value.tobytes()
    return ['array', str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]


def _tokenizer(value: Any) -> Any:
    told = json.loads(value.backend_tokenizer.to_str())
    for key in ('truncation', 'padding'):  # left by the last call
        told.pop(key, None)
    return [_text(told), {k: getattr(value, k, None) for k in _TOKENIZER}]


@functools.cache
def package_digest() -> str:
    """sha256 over the source files that decode, corrupt and encode."""
    found = hashlib.sha256()
    for source in _SOURCES:
        path = _PACKAGE / source
        for file in sorted(path.rglob('*.py')) if path.is_dir() else [path]:
            name = file.relative_to(_PACKAGE).as_posix()
            found.update(name.encode() + b'\0' + file.read_bytes() + b'\0')
    return found.hexdigest()


def class_digest(objects: Iterable[Any]) -> list[list[str]]:
    """Name and sha256 of the source file of every class of ``objects`` that is a user's own.

    Classes of this package, of packages whose version is known and of Python's library are left
    out. What such a file imports from others is not looked at.

    Raises:
        NoDigestError: a class without a source file.
    """
    classes = {cls for value in objects for cls in type(value).__mro__}
    known = {'cal_mm', 'PIL', *_PACKAGES, *sys.stdlib_module_names} - {'__main__'}
    found = set()
    for cls in classes:
        if cls.__module__.split('.')[0] in known:
            continue
        try:
            data = Path(str(inspect.getsourcefile(cls))).read_bytes()
        except (OSError, TypeError) as e:
            raise NoDigestError(
                f'{cls.__qualname__} has no source file, so features that depend on it cannot be '
                f'cached: define it in a module'
            ) from e
        found.add((_named(cls), hashlib.sha256(data).hexdigest()))
    return [list(pair) for pair in sorted(found)]


def encoding_facts(model: Any, modality: str) -> dict[str, Any]:
    """What the features of ``modality`` depend on, the input apart; for ``cache_key``.

    Args:
        model: with ``encoders`` and ``data_preprocessor.frontends``.
        modality: one of both.

    Raises:
        NoDigestError: a setting or a class cannot be told.
    """
    encoder: Any = model.encoders[modality]
    front_end: Any = model.data_preprocessor.frontends[modality]
    preprocessor = model.data_preprocessor
    weights = encoder.digest() if hasattr(encoder, 'digest') else _text(state_of(encoder))
    facts = {
        'encoder': weights,
        'front_end': _state_digest(front_end),
        'classes': class_digest([*encoder.modules(), *front_end.modules()]),
        'code': package_digest(),
        'software': _versions(),
        'machine': _machine(preprocessor),
    }
    if hasattr(encoder, 'digest') and not type(encoder).__module__.startswith('cal_mm.'):
        # a user's digest need not know all settings
        facts['encoder_state'] = _state_digest(encoder)
    return {**facts, **_preprocessor_facts(preprocessor)}


def _state_digest(value: Any) -> str:
    return hashlib.sha256(_text(state_of(value)).encode()).hexdigest()


def _preprocessor_facts(preprocessor: Any) -> dict[str, Any]:
    """Class and settings of a user's own preprocessor; its front ends are told elsewhere."""
    if type(preprocessor).__module__.startswith('cal_mm.'):
        return {}
    own = {k: v for k, v in vars(preprocessor).items() if k not in _MODULE_INTERNALS}
    parts: list[Any] = []
    if isinstance(preprocessor, nn.Module):
        own.update(preprocessor.named_parameters(recurse=False))
        own.update(preprocessor.named_buffers(recurse=False))
        own.update(preprocessor.named_children())
        held = [c for c in preprocessor.children() if c is not preprocessor.frontends]
        parts = [module for child in held for module in child.modules()]
    settings = {k: v for k, v in own.items() if k not in _NO_SETTINGS}
    return {
        'preprocessor': _state_digest(settings),
        'preprocessor_classes': class_digest([preprocessor, *parts]),
    }


def item_facts(dataset: Any, corruptions: Sequence[Any] = ()) -> dict[str, Any]:
    """What a dataset's items depend on beside its config: its data, classes of a user's own.

    Args:
        dataset: with ``metainfo['digest']``; also those behind it, their transforms and what these
            hold.
        corruptions: that act on its items, in order; they enter with all of their settings.

    Raises:
        NoDigestError: a setting or a class cannot be told, or there is no digest of the data.
    """
    from cal_mm.datasets.access import nested_datasets

    nested = nested_datasets(dataset)
    transforms = [getattr(getattr(d, 'pipeline', None), 'transforms', ()) for d in nested]
    parts: dict[int, Any] = {}
    for value in (transforms, list(corruptions)):
        _collect(value, parts)
    return {
        'data': _data_digests(dataset),
        'classes': class_digest([*nested, *parts.values()]),
        'corruptions': _text([state_of(c) for c in corruptions]),
    }


def _data_digests(dataset: Any) -> list[str]:
    """Of the dataset, or of each that a wrapper of mmengine's or torch's holds."""
    from cal_mm.datasets.access import wrapped_datasets

    inner = wrapped_datasets(dataset)
    if inner:
        return [digest for one in inner for digest in _data_digests(one)]
    digest = (getattr(dataset, 'metainfo', None) or {}).get('digest')
    if digest is None:
        raise NoDigestError(
            f"{type(dataset).__name__} has no metainfo['digest'] (a text that changes with its "
            f'data), so features of its samples cannot be cached'
        )
    return [str(digest)]


def _collect(value: Any, found: dict[int, Any]) -> None:
    """Objects in ``value`` and in what it holds, each once."""
    if id(value) in found or isinstance(value, str | bytes | int | float | Tensor | np.ndarray):
        return
    if isinstance(value, list | tuple):
        for one in value:
            _collect(one, found)
    elif isinstance(value, Mapping):
        for one in value.values():
            _collect(one, found)
    elif hasattr(value, '__dict__') and not isinstance(value, type | FunctionType):
        found[id(value)] = value
        for one in vars(value).values():
            _collect(one, found)


@functools.cache
def _installed() -> dict[str, str]:
    return installed_versions(_PACKAGES)


def _versions() -> dict[str, str]:
    # torch's own word: a build (cpu, cuda) is part of it
    return {**_installed(), 'torch': torch.__version__, 'python': platform.python_version()}


def _machine(preprocessor: Any) -> list[Any]:
    """The kind of processor that rounds, and the modes that change how."""
    device = torch.device(getattr(preprocessor, 'device', 'cpu'))
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
    else:
        name = torch.backends.cpu.get_cpu_capability()
    cast = torch.is_autocast_enabled(device.type)
    return [
        device.type,
        name,
        torch.get_float32_matmul_precision(),
        str(torch.get_autocast_dtype(device.type)) if cast else '',
    ]
