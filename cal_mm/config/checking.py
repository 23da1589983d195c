"""Walking through a config: unknown components, arguments they do not take, wrong values."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import Registry

from cal_mm.registry import suggestion

from .components import (
    explicit_arguments,
    find,
    is_ours,
    is_trusted,
    known_names,
    takes,
    wrong_type,
)
from .errors import ConfigError
from .places import (
    DEFAULT_HOOKS,
    EXTRA_ARGUMENTS,
    FREE,
    IMPLIED,
    NAMED,
    PLACES,
    all_searched,
    fixed_keys,
    runner_keys,
)

__all__ = ['Checker', 'check_config', 'dotted']

Where = tuple[str | int, ...]


def dotted(where: Sequence[str | int]) -> str:
    """``('model', 'losses', 1, 'beta')`` as ``model.losses[1].beta``."""
    text = ''
    for part in where:
        text += f'[{part}]' if isinstance(part, int) else f'.{part}'
    return text.lstrip('.')


def check_config(cfg: Config | Mapping, path: str = 'config', used: Collection[str] = ()) -> None:
    """Refuse unknown components, arguments they do not take, and misspelt keys of the Runner.

    Top-level keys that the Runner does not read are variables of the user's own: they are not
    looked into.

    Args:
        cfg: the merged config.
        path: of its file, for the message.
        used: names that the file itself reads, which therefore are no misspelt keys.

    Raises:
        ConfigError: names the file, the path within it, what was expected and the nearest name.
    """
    Checker(cfg, path).run(used)


#: what a file of configs/_base_/methods offers to the configs that use it, by convention -> the key
#: that takes it
METHOD_PARTS = {
    'method_model': 'model',
    'method_optim_wrapper': 'optim_wrapper',
    'method_hooks': 'custom_hooks',
    'method_train_dataloader': 'train_dataloader',
}
METHOD_NAMES = ('method', *METHOD_PARTS)


class Checker:
    """One pass through a config; ``accepted`` then knows the keys that each dictionary may have.

    Args:
        cfg: the merged config.
        path: of its file, for the messages.
    """

    def __init__(self, cfg: Config | Mapping, path: str = 'config') -> None:
        self.top: Mapping = cfg._cfg_dict if isinstance(cfg, Config) else ConfigDict(cfg)
        self.path = path
        self.scope = self.top.get('default_scope') or 'cal_mm'
        #: where -> the keys that may stand there; None: any
        self.accepted: dict[Where, tuple[str, ...] | None] = {}

    def run(self, used: Collection[str] = ()) -> None:
        """Check everything; see ``check_config``."""
        known = runner_keys()
        for key, value in self.top.items():
            if key in known:
                if key in PLACES or fixed_keys((key,), value, None):
                    self._value(value, (key,), PLACES.get(key, ()), None)
            elif not str(key).startswith('_') and key not in used and key not in METHOD_NAMES:
                self._check_own_name(str(key), known)
        self._check_hook_names()

    def _fail(self, where: Where, text: str) -> ConfigError:
        place = f'{dotted(where)}: ' if where else ''
        return ConfigError(f'{self.path}: {place}{text}')

    def _check_own_name(self, key: str, known: list[str]) -> None:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if near:
            raise self._fail(
                (),
                f'unknown key {key!r}. Did you mean {near[0]!r}? A variable of your own that '
                f'nothing in the file reads must not look like a key of the Runner.',
            )

    def _check_hook_names(self) -> None:
        hooks = self.top.get('default_hooks')
        for name in hooks if isinstance(hooks, Mapping) else ():
            near = difflib.get_close_matches(str(name), DEFAULT_HOOKS, n=1, cutoff=0.85)
            if near and name not in DEFAULT_HOOKS:
                raise self._fail(
                    ('default_hooks',),
                    f'unknown key {name!r}. Did you mean {near[0]!r}? A hook of your own needs a '
                    f'name that does not look like one of {", ".join(DEFAULT_HOOKS)}.',
                )

    # ---- the walk --------------------------------------------------------------------------

    def _value(self, value: Any, where: Where, registries: Sequence[Registry], owner: Any) -> None:
        """Check ``value``, which is, or contains, configs of components from ``registries``."""
        if isinstance(value, list | tuple):
            for i, child in enumerate(value):
                self._value(child, (*where, i), registries, owner)
            return
        if not isinstance(value, Mapping):
            return
        fixed = fixed_keys(where, value, owner)
        if fixed is not None:
            self._fixed(value, where, *fixed)
        elif 'type' in value:
            self._component(value, where, value['type'], registries)
        elif len(where) == 1 and where[0] in IMPLIED and self._implied(value, where):
            self._component(value, where, IMPLIED[str(where[0])], registries)
        else:
            self.accepted[where] = None
            for key, child in value.items():
                self._value(child, (*where, str(key)), registries, owner)

    def _implied(self, value: Mapping, where: Where) -> bool:
        """Whether a config without ``type`` is of the component that mmengine takes by default."""
        if where == ('optim_wrapper',):
            return value.get('constructor') in (None, 'DefaultOptimWrapperConstructor')
        return not str(where[0]).endswith('_evaluator') or 'metrics' in value

    def _fixed(self, node: Mapping, where: Where, target: Any, keys: list[str]) -> None:
        self.accepted[where] = tuple(keys)
        self._check_keys(node, where, getattr(target, '__name__', dotted(where)), keys)
        for key, value in node.items():
            if target is not None:
                self._check_type(target, where, key, value)
            if key not in FREE:
                self._check_name(key, value, (*where, str(key)))
                self._value(value, (*where, str(key)), PLACES.get(key, ()), target)

    def _component(
        self, node: Mapping, where: Where, kind: Any, registries: Sequence[Registry]
    ) -> None:
        scope = node.get('_scope_') or self.scope
        if where == ('train_cfg',) and node.get('by_epoch') is False and 'type' not in node:
            kind = 'IterBasedTrainLoop'
        target = find(kind, registries or all_searched(), scope)
        if target is None:
            raise self._fail(where, self._unknown(kind, registries, scope))
        names = self._accepted_by(target, node, registries)
        self.accepted[where] = names
        if names is not None:
            self._check_keys(node, where, _name(target), names)
        for key, value in node.items():
            self._argument(target, key, value, (*where, str(key)))

    def _accepted_by(
        self, target: Any, node: Mapping, registries: Sequence[Registry]
    ) -> tuple[str, ...] | None:
        names = takes(target)
        if names is None or node.get('constructor', 'DefaultOptimWrapperConstructor') != (
            'DefaultOptimWrapperConstructor'
        ):
            return None
        extra = [name for r in registries for name in EXTRA_ARGUMENTS.get(r, ())]
        return ('type', *names, *extra)

    def _argument(self, target: Any, key: str, value: Any, where: Where) -> None:
        if key in ('type', '_scope_') or key in FREE:
            return
        self._check_type(target, where[:-1], key, value)
        if not is_trusted(target):
            return
        ours = is_ours(target) and key in explicit_arguments(target) and not key.endswith('_kwargs')
        if key in PLACES or ours or fixed_keys(where, value, target):
            self._value(value, where, PLACES.get(key, ()), target)

    # ---- single checks ---------------------------------------------------------------------

    def _check_keys(self, node: Mapping, where: Where, name: str, names: Collection[str]) -> None:
        for key in node:
            if key not in names and key not in ('_scope_', '_delete_'):
                listed = [n for n in names if n != 'type']
                raise self._fail(
                    where,
                    f'{name!r} takes no argument {key!r}.{suggestion(str(key), listed)} '
                    f'It takes: {", ".join(dict.fromkeys(listed)) or "nothing"}.',
                )

    def _check_name(self, key: str, value: Any, where: Where) -> None:
        """A component that is given by its name, or by a short name, instead of a config."""
        if key not in NAMED or not isinstance(value, str):
            return
        from cal_mm.engine.hooks.contribution import SOURCES

        if value not in SOURCES and find(value, PLACES[key], self.scope) is None:
            names = [*SOURCES, *known_names(PLACES[key], self.scope)]
            raise self._fail(
                where,
                f'{value!r} is not a registered {PLACES[key][0].name}.{suggestion(value, names)} '
                f'Known: {", ".join(names)}.',
            )

    def _check_type(self, target: Any, where: Where, key: str, value: Any) -> None:
        expected = None if key == 'type' else wrong_type(target, key, value)
        if expected is not None:
            raise self._fail(
                (*where, key),
                f'{_name(target)!r} expects {expected} here, got {value!r} '
                f'({type(value).__name__}).',
            )

    def _unknown(self, kind: Any, registries: Sequence[Registry], scope: str) -> str:
        if not isinstance(kind, str):
            return f'type must be the name of a component or a class, got {kind!r}.'
        what = registries[0].name if registries else 'component'
        known = known_names(registries or all_searched(), scope)
        return (
            f'{kind!r} is not a registered {what}.{suggestion(kind, known)} A class of your own '
            f"needs custom_imports = dict(imports=['your.module']) in the config. "
            f'tools/list_components.py lists every component.'
        )


def _name(target: Any) -> str:
    return getattr(target, '__name__', str(target))
