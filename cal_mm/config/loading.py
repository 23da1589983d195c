"""Reading config files."""

import ast
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry.utils import init_default_scope

from .checking import METHOD_PARTS, Checker
from .errors import ConfigError
from .options import apply_option

__all__ = ['load_config', 'names_read']


def load_config(path: str, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, apply ``--cfg-options``, import its custom modules and check every key.

    ``default_scope`` becomes ``'cal_mm'`` where the file names none.

    Args:
        path: a Python config file (or json, yaml).
        options: ``{'dotted.path': value}``; a path must exist in the config, or name an argument
            that the component there takes.

    Raises:
        ConfigError: no such file, a syntax error in it, an unknown key, argument or component, a
            part of a method that the config does not use.
    """
    if not os.path.isfile(path):
        raise ConfigError(f'no config file at {path!r}')
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except Exception as e:
        raise ConfigError(f'{path}: cannot be read as a config: {type(e).__name__}: {e}') from e
    # mmengine looks collate functions up in its own registry, which knows no place to import from
    importlib.import_module('cal_mm.datasets')
    _drop_leftovers(cfg._cfg_dict)
    _import_custom_modules(cfg, path)
    cfg.setdefault('default_scope', 'cal_mm')
    init_default_scope(cfg.default_scope or 'cal_mm')
    used = names_read(path)
    checker = Checker(cfg, path)
    checker.run(used)
    _check_method_is_used(cfg, path, used)
    for key, value in (options or {}).items():
        apply_option(cfg, key, value, checker)
        _drop_leftovers(cfg._cfg_dict)
        checker = Checker(cfg, f'{path} with --cfg-options {key}')
        checker.run(used)
    _check_hooks_are_kept(cfg, path)
    return cfg


def _drop_leftovers(node: Any) -> None:
    """Remove ``_delete_`` where there was nothing to delete: mmengine leaves it in place."""
    children: Any = ()
    if isinstance(node, Mapping):
        if '_delete_' in node:
            node.pop('_delete_')  # type: ignore[attr-defined]
        children = node.values()
    elif isinstance(node, list | tuple):
        children = node
    for child in children:
        _drop_leftovers(child)


def _import_custom_modules(cfg: Config, path: str) -> None:
    """Import ``custom_imports``; modules beside the config file are found without PYTHONPATH."""
    wanted = cfg.get('custom_imports')
    if not wanted:
        return
    if not isinstance(wanted, Mapping) or 'imports' not in wanted:
        raise ConfigError(f"{path}: custom_imports must be dict(imports=['module', ...])")
    names = wanted['imports']
    for folder in (os.getcwd(), os.path.dirname(os.path.abspath(path))):
        if folder not in sys.path:
            sys.path.append(folder)
    for name in [names] if isinstance(names, str) else names:
        _import(name, path, bool(wanted.get('allow_failed_imports', False)))


def _import(name: str, path: str, may_fail: bool) -> None:
    try:
        importlib.import_module(name)
    except ImportError as e:
        if may_fail:
            return
        raise ConfigError(
            f'{path}: custom_imports: cannot import {name!r}: {e}. Looked in the current folder, '
            f'beside the config and in PYTHONPATH.'
        ) from e
    except Exception as e:
        last = traceback.extract_tb(e.__traceback__)[-1]
        raise ConfigError(
            f'{path}: custom_imports: {name!r} fails in line {last.lineno} of {last.filename}: '
            f'{type(e).__name__}: {e}'
        ) from e


# ---- which variables a file reads ----------------------------------------------------------------


def names_read(path: str) -> set[str]:
    """Names that a config file and its bases read: a variable that is read is no misspelt key."""
    found: set[str] = set()
    for _, tree in _sources(path):
        for node in ast.walk(tree):
            found |= _read_by(node)
    return found


def _check_method_is_used(cfg: Config, path: str, used: set[str]) -> None:
    """Refuse a method of which a part is left out: another one would train under its name."""
    if 'model' not in cfg:
        return  # a method's file by itself
    for file, tree in _sources(path):
        targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
        own = {t.id for t in targets if isinstance(t, ast.Name)}
        for part, key in METHOD_PARTS.items():
            # a config as a run leaves it in its work directory has both, merged
            if part in own and key not in own and part not in used and cfg.get(part):
                raise ConfigError(
                    f'{path}: {part} of {os.path.relpath(file)} is not used, so that this is not '
                    f'the method. Add: {key} = _base_.{part}'
                )


def _check_hooks_are_kept(cfg: Config, path: str) -> None:
    """Refuse a list of hooks that has replaced the method's."""
    if 'model' not in cfg:
        return
    there = {str(hook.get('type')) for hook in cfg.get('custom_hooks') or []}
    lost = [h for h in cfg.get('method_hooks') or [] if str(h.get('type')) not in there]
    if lost:
        raise ConfigError(
            f'{path}: custom_hooks lacks {", ".join(str(h.get("type")) for h in lost)} of '
            f'method_hooks, so that this is not the method: a list of hooks replaces that of the '
            f'base. Write custom_hooks = [*_base_.method_hooks, ...], or set method_hooks = [] if '
            f'that is what you want'
        )


def _sources(path: str) -> Iterator[tuple[str, ast.Module]]:
    """A config file and its bases, each once: where it lies and its syntax tree."""
    seen: set[str] = set()
    queue = [os.path.abspath(path)]
    while queue:
        file = queue.pop()
        if file in seen or not file.endswith('.py') or not os.path.isfile(file):
            continue
        seen.add(file)
        with open(file, encoding='utf-8') as f:
            tree = ast.parse(f.read())
        yield file, tree
        for node in ast.walk(tree):
            queue += [os.path.join(os.path.dirname(file), base) for base in _bases(node)]


def _read_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        return {node.id}
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {p.strip(' {}').removeprefix('_base_.') for p in node.value.split('{{')[1:]}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    return set()


def _bases(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.level:
        return ['../' * (node.level - 1) + (node.module or '').replace('.', '/') + '.py']
    if not isinstance(node, ast.Assign) or not any(
        isinstance(t, ast.Name) and t.id == '_base_' for t in node.targets
    ):
        return []
    try:
        value = ast.literal_eval(node.value)
    except ValueError:
        return []
    bases = [value] if isinstance(value, str) else list(value)
    return [b for b in bases if isinstance(b, str) and '::' not in b]
