"""What a component's name stands for, and which arguments and values it takes."""

import inspect
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import Registry

__all__ = [
    'explicit_arguments',
    'find',
    'is_ours',
    'is_trusted',
    'known_names',
    'takes',
    'wrapped_configs',
    'wrong_type',
]

#: classes that take ``**kwargs`` without handing them to their base: where the further arguments go
_FORWARDED_TO: dict[Any, tuple[str, ...]] = {
    CheckpointHook: (),
    EMAHook: ('momentum', 'interval', 'device', 'update_buffers', 'gamma'),
}


def _within(registry: Registry, scope: str) -> Registry:
    """The registry that mmengine builds from under the default scope ``scope``."""
    return registry.children.get(scope, registry)


def find(kind: Any, registries: Sequence[Registry], scope: str) -> Any:
    """The class or function called ``kind`` in the first of ``registries`` that knows it, or None.

    As mmengine looks it up: in the default scope, with a scope prefix, or as a dotted import path.
    """
    if not isinstance(kind, str):
        return kind if callable(kind) else None
    for registry in registries:
        try:
            found = _within(registry, scope).get(kind)
        except RuntimeError:  # mmengine's way to say that a dotted path leads nowhere
            found = None
        if found is not None:
            return found
    return None


def known_names(registries: Sequence[Registry], scope: str) -> list[str]:
    """Every name that ``find`` would accept without a prefix, sorted."""
    names: set[str] = set()
    for registry in registries:
        node: Registry | None = _within(registry, scope)
        while node is not None:
            node.import_from_location()
            names.update(node.module_dict)
            node = node.parent
    return sorted(names)


def _module(target: Any) -> str:
    return (getattr(target, '__module__', '') or '').split('.')[0]


def is_ours(target: Any) -> bool:
    """Whether ``target`` is cal_mm's own, whose annotations and nested configs are known."""
    return _module(target) == 'cal_mm'


def is_trusted(target: Any) -> bool:
    """Whether a nested config under a usual name means what it means in mmengine and cal_mm."""
    bases = getattr(target, '__mro__', (target,))
    return any(_module(b) in ('cal_mm', 'mmengine', 'mmcv') for b in bases)


def explicit_arguments(target: Any) -> dict[str, inspect.Parameter]:
    """The named parameters of ``target``; empty where it has no signature (builtins)."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}
    return {n: p for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def wrapped_configs(dataset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The configs of the datasets that a wrapper's config holds, in order."""
    several = dataset.get('datasets')
    inner = [dataset.get('dataset'), *(several if isinstance(several, list | tuple) else ())]
    return [one for one in inner if isinstance(one, Mapping)]


def takes(target: Any) -> tuple[str, ...] | None:
    """Every keyword argument that ``target`` takes, or None where any may be right."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    names = tuple(explicit_arguments(target))
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return names
    for known, more in _FORWARDED_TO.items():
        if target is known:
            return names + more
    if not inspect.isclass(target) or _module(target) not in ('cal_mm', 'mmengine', 'torch'):
        return None  # a user's ** may go anywhere
    return _through_bases(target)


def _through_bases(target: Any) -> tuple[str, ...] | None:
    """Arguments that ``**kwargs`` hands up the class hierarchy; None if that has no clear end."""
    names: list[str] = []
    for base in target.__mro__[:-1]:
        if '__init__' not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return tuple(dict.fromkeys(names))
    return None


# ---- values ------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def _hints(target: Any) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation that only type checkers can resolve
        return {}


def _fits(hint: Any, value: Any) -> bool:
    """Whether ``value`` can be of the type ``hint``; True for types that are not basic."""
    origin = typing.get_origin(hint) or hint
    if origin in (typing.Union, types.UnionType):
        return any(_fits(h, value) for h in typing.get_args(hint))
    if origin is type(None):
        return value is None
    if origin is bool:
        return isinstance(value, bool)
    if origin is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if origin is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if origin is str:
        return isinstance(value, str)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple | range)
    return True


def _shown(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return ' or '.join(_shown(h) for h in typing.get_args(hint))
    if hint is type(None):
        return 'None'
    origin = typing.get_origin(hint) or hint
    return getattr(origin, '__name__', str(hint))


def wrong_type(target: Any, name: str, value: Any) -> str | None:
    """What ``name`` of ``target`` expects, if ``value`` is of a basic type that cannot be right.

    cal_mm's own components go by their annotations. Of others only text in place of a number is
    refused, because their annotations are not always true.
    """
    if is_ours(target):
        hint = _hints(target).get(name, Any)
        return None if _fits(hint, value) else _shown(hint)
    parameter = explicit_arguments(target).get(name)
    if parameter is None or not isinstance(value, str):
        return None
    default, annotation = parameter.default, parameter.annotation
    number = isinstance(default, int | float) and not isinstance(default, bool)
    known = _module(target) in ('mmengine', 'torch', 'timm')
    return 'a number' if known and (number or annotation in (int, float)) else None
