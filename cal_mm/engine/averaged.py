"""mmengine's EMAHook beside buffers that are measured: what they hold must fit the average."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import EMAHook
from torch import Tensor, nn

__all__ = ['average_model', 'averaged_weights', 'follow_buffers']

#: names, or their beginnings, of the buffers that are measured inside ``averaged_weights``
_MEASURED = (
    'contribution.temperature',
    'contribution.told',
    'contribution.fused_temperature',
    'contribution.typicality.',
    'uncertainty.',
)


def _average(runner: Any) -> EMAHook | None:
    return next((h for h in runner.hooks if isinstance(h, EMAHook)), None)


def average_model(runner: Any) -> nn.Module | None:
    """The model with the averaged weights; None where the run keeps no average."""
    hook = _average(runner)
    return None if hook is None else hook.ema_model.module


@contextmanager
def averaged_weights(runner: Any) -> Iterator[None]:
    """The model has the averaged weights inside, if the run keeps an average: what is measured
    inside fits what is validated and saved, and is in the model's and the average's buffers
    afterwards, whether the average has buffers of its own (``update_buffers``) or not.
    """
    hook = _average(runner)
    if hook is None:
        yield
        return
    hook._swap_ema_parameters()
    try:
        yield
    finally:
        hook._swap_ema_parameters()
        if hook.ema_model.update_buffers:  # they were swapped, too
            average = dict(hook.ema_model.module.named_buffers())
            for name, buffer in hook.src_model.named_buffers():
                if name.startswith(_MEASURED):
                    buffer.copy_(average[name])
        else:
            follow_buffers(runner)


def follow_buffers(runner: Any, resized: bool = False) -> None:
    """Copy the model's buffers to those of the average, if there is one. What is measured on the
    average is not averaged over the iterations.

    Args:
        runner: of the training.
        resized: only those whose size is no longer that of the average's.
    """
    hook = _average(runner)
    if hook is None:
        return
    average: dict[str, Tensor] = dict(hook.ema_model.module.named_buffers())
    for name, buffer in hook.src_model.named_buffers():
        if resized and average[name].shape == buffer.shape:
            continue
        average[name].data = buffer.detach().clone().to(average[name].device)
    if hook.ema_model.update_buffers:  # mmengine holds what may have been replaced
        held = hook.ema_model.module.state_dict()
        averaged = {k: v for k, v in held.items() if not k.startswith(_MEASURED)}
        hook.ema_model.avg_parameters = averaged
