"""One seed for all that a run draws."""

from collections.abc import Mapping
from typing import Any

from cal_mm.registry import DATASETS, MODELS

from .components import find, takes, wrapped_configs

__all__ = ['set_seed']


def set_seed(cfg: Any, seed: int) -> None:
    """Let a run draw from ``seed``: initial weights and order (``randomness``), the bottlenecks'
    noise (the model's ``seed``), augmentation, subsample and wrong labels of the training data (the
    dataset's ``seed``). A model or dataset of one's own that takes no ``seed`` has none.

    Where noisy versions of the samples are cached (``default_hooks.feature_cache.draws``), the
    training data keep their seed, so that all runs share them.
    """
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    scope = cfg.get('default_scope') or 'cal_mm'
    if _takes_seed(cfg.get('model'), MODELS, scope):
        cfg.model.seed = seed
    cache = (cfg.get('default_hooks') or {}).get('feature_cache') or {}
    loader = cfg.get('train_dataloader') or {}
    if not cache.get('draws'):
        _seed_datasets(loader.get('dataset') or {}, seed, scope)


def _takes_seed(component: Any, registry: Any, scope: str) -> bool:
    if not isinstance(component, Mapping) or 'type' not in component:
        return False
    return 'seed' in (takes(find(component['type'], [registry], scope)) or ())


def _seed_datasets(dataset: Any, seed: int, scope: str) -> None:
    """Also those inside of wrappers."""
    if _takes_seed(dataset, DATASETS, scope):
        dataset['seed'] = seed
    for inner in wrapped_configs(dataset):
        _seed_datasets(inner, seed, scope)
