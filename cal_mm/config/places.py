"""Where components stand in a config, and which plain dictionaries have fixed keys.

Everything that is not listed here is left alone: a config may hold any data.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import mmengine.registry as roots
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from cal_mm import registry as own

from .components import explicit_arguments

__all__ = [
    'DEFAULT_HOOKS',
    'EXTRA_ARGUMENTS',
    'FREE',
    'IMPLIED',
    'NAMED',
    'PLACES',
    'all_searched',
    'fixed_keys',
    'runner_keys',
]

_METRICS = (roots.METRICS, roots.EVALUATOR)

#: argument name -> the registries that its config, or each config in it, is built from
PLACES: dict[str, tuple[Registry, ...]] = {
    'model': (roots.MODELS,),
    'data_preprocessor': (roots.MODELS,),
    'unimodal_head': (roots.MODELS,),
    'encoders': (own.ENCODERS,),
    'frontends': (own.FRONTENDS,),
    'frontend': (own.FRONTENDS,),
    'bottleneck': (own.BOTTLENECKS,),
    'feature_transforms': (own.FEATURE_TRANSFORMS,),
    'fusion': (own.FUSIONS,),
    'gate': (own.GATES,),
    'losses': (own.LOSSES,),
    'information': (own.CONTRIBUTIONS,),
    'confidence': (own.CONTRIBUTIONS,),
    'source': (own.CONTRIBUTION_SOURCES,),
    'modulator': (own.MODULATORS,),
    'corruptions': (own.CORRUPTIONS,),
    'adaptation': (own.ADAPTERS,),
    'dataset': (roots.DATASETS,),
    'datasets': (roots.DATASETS,),
    'pipeline': (roots.TRANSFORMS,),
    'transforms': (roots.TRANSFORMS,),
    'sampler': (roots.DATA_SAMPLERS,),
    'batch_sampler': (roots.DATA_SAMPLERS,),
    'collate_fn': (roots.FUNCTIONS,),
    'worker_init_fn': (roots.FUNCTIONS,),
    'optim_wrapper': (roots.OPTIM_WRAPPERS,),
    'optimizer': (roots.OPTIMIZERS,),
    'param_scheduler': (roots.PARAM_SCHEDULERS,),
    'default_hooks': (roots.HOOKS,),
    'custom_hooks': (roots.HOOKS,),
    'train_cfg': (roots.LOOPS,),
    'val_cfg': (roots.LOOPS,),
    'test_cfg': (roots.LOOPS,),
    'val_evaluator': _METRICS,
    'test_evaluator': _METRICS,
    'metrics': _METRICS,
    'visualizer': (roots.VISUALIZERS,),
    'vis_backends': (roots.VISBACKENDS,),
    'log_processor': (roots.LOG_PROCESSORS,),
    'model_wrapper_cfg': (roots.MODEL_WRAPPERS,),
    'init_cfg': (roots.WEIGHT_INITIALIZERS,),
}

#: arguments whose component may be given by its name alone
NAMED = ('source',)

#: arguments that hold data, never components
FREE = ('metainfo', 'config', 'init_kwargs', 'custom_keys')

#: what mmengine takes out of a config before it builds the component of that registry
EXTRA_ARGUMENTS: dict[Registry, tuple[str, ...]] = {
    roots.HOOKS: ('priority',),
    roots.PARAM_SCHEDULERS: ('convert_to_iter_based',),
    roots.OPTIM_WRAPPERS: ('constructor', 'paramwise_cfg'),
    roots.LOOPS: ('by_epoch',),
}

#: the component that mmengine takes where a config at this top-level key names none
IMPLIED = {
    'optim_wrapper': 'OptimWrapper',
    'train_cfg': 'EpochBasedTrainLoop',
    'val_cfg': 'ValLoop',
    'test_cfg': 'TestLoop',
    'log_processor': 'LogProcessor',
    'val_evaluator': 'Evaluator',
    'test_evaluator': 'Evaluator',
}

#: hooks that mmengine registers by these names; another name adds a hook
DEFAULT_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)

_MORE_KEYS = (
    'auto_scale_lr',
    'custom_imports',
    'model_wrapper_cfg',
    'runner_type',
    'find_unused_parameters',
    'activation_checkpointing',
    'efficient_conv_bn_eval',
    'sync_bn',
    'compile',
    'backend_args',
)

_LOADER = (
    *list(inspect.signature(DataLoader.__init__).parameters)[1:],
    'num_batch_per_epoch',
    'disable_subprocess_warning',
)
_PARAMWISE = (
    'bias_decay_mult',
    'bias_lr_mult',
    'bypass_duplicate',
    'custom_keys',
    'dcn_offset_lr_mult',
    'dwconv_decay_mult',
    'flat_decay_mult',
    'norm_decay_mult',
)


def runner_keys() -> list[str]:
    """Top-level config keys that the Runner or cal_mm read."""
    runner = [p for p in inspect.signature(Runner.__init__).parameters if p not in ('self', 'cfg')]
    return [*runner, *_MORE_KEYS]


def all_searched() -> list[Registry]:
    """Every registry, for an argument that ``PLACES`` does not know."""
    return list(dict.fromkeys([r for rs in PLACES.values() for r in rs]))


def fixed_keys(where: tuple[str | int, ...], node: Any, owner: Any) -> tuple[Any, list[str]] | None:
    """For a dictionary without ``type`` whose keys are fixed: (its class or None, the keys).

    Args:
        where: keys and indices from the top to the dictionary.
        node: the dictionary.
        owner: the class whose argument it is; None at the top.
    """
    key = where[-1]
    if not isinstance(node, Mapping):
        return None
    if len(where) == 1 and str(key).endswith('_dataloader'):
        return DataLoader, list(_LOADER)
    if where == ('randomness',):
        return None, ['seed', 'diff_rank_seed', 'deterministic']
    if where == ('env_cfg',):
        return None, ['cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit']
    if where == ('env_cfg', 'mp_cfg'):
        return None, ['mp_start_method', 'opencv_num_threads']
    if where == ('auto_scale_lr',):
        return None, ['enable', 'base_batch_size']
    if where == ('custom_imports',):
        return None, ['imports', 'allow_failed_imports']
    if where[0] == 'optim_wrapper':
        return _of_optim_wrapper(key, node)
    return _of_model(key, owner)


def _of_optim_wrapper(key: Any, node: Any) -> tuple[Any, list[str]] | None:
    if key == 'clip_grad':
        kind = node.get('type', 'norm')
        function = {'norm': clip_grad_norm_, 'value': clip_grad_value_}.get(kind)
        if function is None:
            return None
        return function, ['type', *list(explicit_arguments(function))[1:]]
    if key == 'paramwise_cfg':
        return DefaultOptimWrapperConstructor, list(_PARAMWISE)
    return None


def _of_model(key: Any, owner: Any) -> tuple[Any, list[str]] | None:
    # imported late: reading a config does not need the models
    from cal_mm.models import MultiModalClassifier
    from cal_mm.models.contribution import ContributionTracker
    from cal_mm.models.contribution.typicality import Typicality

    if not inspect.isclass(owner):
        return None
    if key == 'contribution' and issubclass(owner, MultiModalClassifier):
        skipped: tuple[str, ...] = ('feature_channels', 'num_classes')
        target: Any = ContributionTracker
    elif key == 'typicality' and issubclass(owner, ContributionTracker):
        skipped, target = ('in_channels',), Typicality
    else:
        return None
    return target, [n for n in explicit_arguments(target) if n not in skipped]
