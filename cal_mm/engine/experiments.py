"""mmengine's global instances (logger, message hub, visualiser, scope) of the runs of a process."""

from typing import Any

from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin

__all__ = ['forget_experiment']


def forget_experiment(name: str) -> None:
    """Close and drop mmengine's global instances of a run that is over.

    mmengine keeps them for ever, under the run's ``experiment_name`` and the second in which it was
    built, so a second run of that name in that second would be given those of the first. A scope
    that is the only one stays: the registries need one.

    Args:
        name: what the instances' names begin with, usually ``cfg.experiment_name``.
    """
    for cls in _managers(ManagerMixin):
        instances = getattr(cls, '_instance_dict', {})
        for key in [k for k in instances if str(k).startswith(name)]:
            if cls is DefaultScope and len(instances) <= 1:
                continue
            logger = instances.pop(key)
            for handler in list(getattr(logger, 'handlers', ())):
                handler.close()
                logger.removeHandler(handler)


def _managers(cls: Any) -> list[Any]:
    children: list[Any] = cls.__subclasses__()
    return [s for child in children for s in (child, *_managers(child))]
