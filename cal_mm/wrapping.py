"""The model behind a distributed wrapper; free of the models themselves."""

from typing import Any

from mmengine.model import is_model_wrapper

__all__ = ['unwrap']


def unwrap(model: Any) -> Any:
    """The model inside a distributed wrapper, such as DDP; one without a wrapper as it is."""
    return model.module if is_model_wrapper(model) else model
