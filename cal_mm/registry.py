"""Every registry of cal_mm, in one place.

Registries that mmengine's ``Runner`` builds from are children of mmengine's roots. Those that only
cal_mm builds from (encoders, fusions, ...) are parentless with the scope ``cal_mm``, because a
second child with one scope is refused and nesting them under ``MODELS`` breaks once
``default_scope`` is set.

Looking up a name that is not registered raises a ``LookupError`` that suggests the nearest name; an
argument that a component does not take raises a ``TypeError`` that names the component, the
argument and the arguments it does take.
"""

import difflib
import inspect
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import Registry, build_from_cfg

__all__ = [
    'ADAPTERS',
    'BOTTLENECKS',
    'CONTRIBUTIONS',
    'CONTRIBUTION_SOURCES',
    'CORRUPTIONS',
    'DATASETS',
    'DATA_SAMPLERS',
    'ENCODERS',
    'FEATURE_TRANSFORMS',
    'FRONTENDS',
    'FUSIONS',
    'GATES',
    'HOOKS',
    'LOOPS',
    'LOSSES',
    'METRICS',
    'MODELS',
    'MODULATORS',
    'OPTIM_WRAPPERS',
    'TRANSFORMS',
    'VISUALIZERS',
    'UnknownComponentError',
    'all_registries',
]


class UnknownComponentError(LookupError):
    """A component name that no registry knows."""


def suggestion(name: str, known: list[str]) -> str:
    """``" Did you mean 'x'?"`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:
        lowered = {k.lower(): k for k in known}
        near = [lowered[m] for m in difflib.get_close_matches(name.lower(), list(lowered), n=1)]
    return f' Did you mean {near[0]!r}?' if near else ''


def _build(cfg: dict, registry: Registry, default_args: dict | None = None, **kwargs: Any) -> Any:
    """``build_from_cfg`` with errors that say what was expected and what to do."""
    merged = {**(default_args or {}), **cfg} if isinstance(cfg, dict) else {}
    kind = merged.get('type')
    if isinstance(cfg, dict) and kind is None:
        raise ValueError(
            f"the config of a {registry.name} needs the key 'type', "
            f'got the keys {sorted(map(str, cfg))}'
        )
    target = kind
    if isinstance(kind, str):
        target = registry.get(kind)
        if target is None:
            known = sorted(registry.module_dict)
            raise UnknownComponentError(
                f'{kind!r} is not a registered {registry.name}.{suggestion(kind, known)} '
                f'Registered: {", ".join(known) or "none"}. A class of your own needs '
                f"custom_imports = dict(imports=['your.module']) in the config."
            )
    _check_arguments(target, merged, registry.name)
    return build_from_cfg(cfg, registry, default_args)


def _check_arguments(target: Any, merged: dict, registry_name: str) -> None:
    """Refuse a keyword that ``target`` does not take, before anything is built."""
    if not callable(target):
        return
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # builtins without a signature
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    takes = [n for n, p in parameters.items() if p.kind is not p.VAR_POSITIONAL]
    for key in merged:
        if key not in takes and key not in ('type', '_scope_'):
            name = getattr(target, '__name__', str(target))
            raise TypeError(
                f'{registry_name} {name!r} takes no argument {key!r}.{suggestion(str(key), takes)} '
                f'It takes: {", ".join(takes) or "nothing"}.'
            )


def _own(name: str, location: str) -> Registry:
    return Registry(name, build_func=_build, scope='cal_mm', locations=[location])


def _child(name: str, parent: Registry, location: str) -> Registry:
    return Registry(name, build_func=_build, parent=parent, scope='cal_mm', locations=[location])


#: children of mmengine's roots: what the Runner builds
MODELS = _child('model', MMENGINE_MODELS, 'cal_mm.models')
DATASETS = _child('dataset', MMENGINE_DATASETS, 'cal_mm.datasets')
DATA_SAMPLERS = _child('data sampler', MMENGINE_DATA_SAMPLERS, 'cal_mm.datasets')
TRANSFORMS = _child('transform', MMENGINE_TRANSFORMS, 'cal_mm.datasets.transforms')
METRICS = _child('metric', MMENGINE_METRICS, 'cal_mm.evaluation')
HOOKS = _child('hook', MMENGINE_HOOKS, 'cal_mm.engine.hooks')
LOOPS = _child('loop', MMENGINE_LOOPS, 'cal_mm.engine')
OPTIM_WRAPPERS = _child('optim wrapper', MMENGINE_OPTIM_WRAPPERS, 'cal_mm.engine')
VISUALIZERS = _child('visualizer', MMENGINE_VISUALIZERS, 'cal_mm.visualization')

# mmengine looks for a child with our scope in every registry it builds from and warns where there
# is none; these
# stay empty unless a user registers something in them.
for _name in (
    'EVALUATOR',
    'LOG_PROCESSORS',
    'MODEL_WRAPPERS',
    'OPTIMIZERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'PARAM_SCHEDULERS',
    'RUNNERS',
    'VISBACKENDS',
    'WEIGHT_INITIALIZERS',
):
    _parent = getattr(mmengine_registry, _name)
    Registry(_parent.name, parent=_parent, scope='cal_mm')

#: parentless: what cal_mm's own components build
ENCODERS = _own('encoder', 'cal_mm.models.encoders')
FRONTENDS = _own('front end', 'cal_mm.models.frontends')
FUSIONS = _own('fusion', 'cal_mm.models.fusions')
GATES = _own('gate', 'cal_mm.models.gates')
BOTTLENECKS = _own('bottleneck', 'cal_mm.models.bottlenecks')
FEATURE_TRANSFORMS = _own('feature transform', 'cal_mm.models.feature_transforms')
CONTRIBUTIONS = _own('contribution estimator', 'cal_mm.models.contribution')
CONTRIBUTION_SOURCES = _own('contribution source', 'cal_mm.engine.sources')
LOSSES = _own('loss component', 'cal_mm.models.losses')
MODULATORS = _own('modulator', 'cal_mm.engine')
ADAPTERS = _own('test-time adapter', 'cal_mm.engine')
CORRUPTIONS = _own('corruption', 'cal_mm.corruptions')


def all_registries() -> dict[str, Registry]:
    """Every registry by the name that users import, in a fixed order."""
    return {name: globals()[name] for name in __all__ if name.isupper()}
