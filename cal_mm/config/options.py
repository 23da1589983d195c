"""``--cfg-options``: what they may address, and how their values are read."""

import ast
import sys
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, DictAction

from cal_mm.registry import suggestion

from .checking import Checker, Where, dotted
from .errors import ConfigError
from .places import runner_keys

__all__ = ['apply_option', 'parse_option']


def parse_option(text: str) -> tuple[str, Any]:
    """``'a.b=value'`` as ``('a.b', value)``.

    A value is a number, true or false, None, a list (``[1,2]`` or ``1,2``), a quoted Python literal
    (also a dictionary), or else text, spaces included.

    Raises:
        ValueError: there is no ``=``, no key, or the brackets do not match.
    """
    key, equals, value = text.partition('=')
    key, value = key.strip(), value.strip()
    if not equals or not key:
        raise ValueError(f'expected KEY=VALUE, got {text!r}')
    if value[:1] in ('{', '"', "'") or (value[:1] in ('[', '(') and set(value) & set('{"\'')):
        try:
            return key, ast.literal_eval(value)
        except (ValueError, SyntaxError) as e:
            raise ValueError(f'{key}: {value!r} is no Python literal ({e})') from e
    if value[:1] not in ('[', '(') and ',' not in value:
        return key, DictAction._parse_int_float_bool(value)
    try:
        return key, DictAction._parse_iterable(value)
    except AssertionError as e:
        raise ValueError(f'{key}: the brackets of {value!r} do not match') from e


def apply_option(cfg: Config, key: str, value: Any, checker: Checker) -> None:
    """Set the dotted path ``key`` of ``cfg`` to ``value``.

    A dictionary is merged into the one that is there; one with a ``type`` replaces a name.

    Args:
        cfg: changed in place.
        key: a path that exists, or that adds an argument which the component there takes.
        value: the new value.
        checker: has looked through ``cfg``.

    Raises:
        ConfigError: the path leads nowhere; names the part that is wrong and the nearest key.
    """
    parts = key.split('.')
    present = _check_path(cfg._cfg_dict, key, parts, checker)
    if isinstance(present, str) and isinstance(value, Mapping) and 'type' in value:
        value = {**value, '_delete_': True}
    if parts[0] not in runner_keys():
        print(
            f'--cfg-options {key}: {parts[0]!r} is a variable of the config file; what the file '
            f'computed from it stays as it was. Give the path of the final value instead.',
            file=sys.stderr,
        )
    try:
        cfg.merge_from_dict({key: value})
    except (KeyError, TypeError, AttributeError) as e:
        raise ConfigError(f'--cfg-options {key}: cannot be set to {value!r}: {e}') from e


def _check_path(top: Mapping, key: str, parts: list[str], checker: Checker) -> Any:
    """The value that is there now; None for an argument that is added."""
    node: Any = top
    where: Where = ()
    for i, part in enumerate(parts):
        place = dotted(where) or 'the top level'
        if isinstance(node, Mapping):
            if part not in node:
                _check_addition(node, where, part, key, checker, bool(parts[i + 1 :]))
                return None
            node, where = node[part], (*where, part)
        elif isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(
                    f'--cfg-options {key}: {place} is a list of {len(node)}; {part!r} is not an '
                    f'index into it (0 to {len(node) - 1})'
                )
            node, where = node[int(part)], (*where, int(part))
        elif isinstance(node, tuple):
            raise ConfigError(
                f'--cfg-options {key}: {place} is a tuple, which can only be set as a whole: '
                f'{".".join(parts[:i])}=...'
            )
        else:
            raise ConfigError(
                f'--cfg-options {key}: {place} is {node!r}, there is no {part!r} inside it'
            )
    return node


def _check_addition(
    node: Mapping, where: Where, part: str, key: str, checker: Checker, deeper: bool
) -> None:
    """Whether the new key ``part`` may be added to ``node``."""
    accepted = tuple(runner_keys()) if not where else checker.accepted.get(where)
    here = [k for k in map(str, node) if not k.startswith('_')]
    if accepted is None:
        # a container or data: a new entry may be right, unless it looks like a slip of the pen
        hint = suggestion(part, here)
        if not hint and not deeper:
            return
        accepted = ()
    if part in accepted:
        return
    known = sorted({*here, *accepted})
    raise ConfigError(
        f'--cfg-options {key}: there is no {part!r} at {dotted(where) or "the top level"}.'
        f'{suggestion(part, known)} Keys there: {", ".join(here)}'
    )
