"""Test-time adaptation: the model goes on learning from the unlabelled test batches.

Every condition starts again from the checkpoint's weights. A batch is predicted with what the
batches before it taught, then it teaches: so the figures depend on the order and the size of the
batches, which is part of these methods. Both methods take a batch for a sample of the whole split:
its classes must be mixed, or the batch tells which class is in it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cal_mm.registry import ADAPTERS

__all__ = ['READ', 'Adapter', 'Tent', 'confidence_loss', 'prediction_entropy']

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def prediction_entropy(logits: Tensor) -> Tensor:
    """Mean over the batch of H(softmax), in nats: [B, C] -> scalar."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).mean()


def confidence_loss(logits: Tensor) -> Tensor:
    """READ's loss: mean of -p log p of the highest probability, minus the entropy of the mean
    prediction (nats): [B, C] -> scalar.

    The first term falls only where the prediction is already confident; the second keeps the batch
    from collapsing into one class.
    """
    p = logits.softmax(dim=-1)
    top = p.max(dim=-1).values
    mean = p.mean(dim=0)
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum()
    return -(top * top.clamp_min(1e-12).log()).mean() - entropy


class Adapter:
    """Base of the adapters: which parameters move, and what they follow.

    Args:
        lr: learning rate of Adam.
        steps: updates per batch.
    """

    def __init__(self, lr: float = 1e-4, steps: int = 1) -> None:
        if lr <= 0 or steps < 1:
            raise ValueError(
                f'{type(self).__name__}: need lr > 0 and steps >= 1, got lr={lr}, steps={steps}'
            )
        self.lr, self.steps = lr, steps
        self._kept: dict[str, Tensor] = {}
        self._optimizer: torch.optim.Optimizer | None = None

    def modules(self, model: Any) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
        """Modules and the names of those of their parameters that move."""
        raise NotImplementedError(f'{type(self).__name__} must implement modules')

    def loss(self, logits: Tensor) -> Tensor:
        """What is minimised: [B, C] -> scalar, without labels."""
        raise NotImplementedError(f'{type(self).__name__} must implement loss')

    def parameters(self, model: Any) -> list[nn.Parameter]:
        """The parameters that move.

        Raises:
            ValueError: the model has none for this method.
        """
        frozen = {id(p) for p in model.parameters() if not p.requires_grad}
        found = {
            id(p): p
            for module, names in self.modules(model)
            for name in names
            if (p := getattr(module, name, None)) is not None and id(p) not in frozen
        }
        if not found:
            raise ValueError(
                f'{type(self).__name__} finds nothing to adapt in this model: it moves '
                f'{(type(self).__doc__ or "").split(":")[0].lower()}'
            )
        return list(found.values())

    def start(self, model: Any) -> None:
        """Remember the model, and make it ready; before the first batch of a condition."""
        self._kept = {k: v.clone() for k, v in model.state_dict().items() if torch.is_tensor(v)}
        self._optimizer = torch.optim.Adam(self.parameters(model), lr=self.lr)

    def stop(self, model: Any) -> None:
        """Everything as it was before :meth:`start`."""
        own = model.state_dict()
        for key, value in self._kept.items():
            own[key].copy_(value)
        self._kept, self._optimizer = {}, None

    def learn(self, model: Any, batch: dict) -> None:
        """Update on a collated batch; its labels are not looked at."""
        optimizer = self._optimizer
        if optimizer is None:
            raise RuntimeError(f'{type(self).__name__}: call start(model) before learn')
        params = [p for group in optimizer.param_groups for p in group['params']]
        with torch.enable_grad():
            data = model.data_preprocessor(batch, False)
            for _ in range(self.steps):
                loss = self.loss(model.prediction_logits(**data).float())
                grads = torch.autograd.grad(loss, params, allow_unused=True)
                for p, grad in zip(params, grads, strict=True):
                    p.grad = grad
                    if grad is not None:
                        all_reduce(grad, 'mean')
                optimizer.step()
                optimizer.zero_grad()


@ADAPTERS.register_module()
class Tent(Adapter):
    """Scale and shift of the normalisation layers: they follow the entropy of the predictions.

    BatchNorm uses the test batch's statistics meanwhile, which are the split's only where a batch
    mixes the classes: the split goes through shuffled, in the same order under every condition. A
    single row has no statistics and gets those of training. Frozen encoders stay as they are.

    Source: Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR 2021
    (arXiv 2006.10726).
    """

    def modules(self, model: Any) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
        """Every normalisation layer."""
        for module in model.modules():
            if isinstance(module, _NORMS):
                yield module, ('weight', 'bias')

    def start(self, model: Any) -> None:
        """Also: BatchNorm of parts that learn takes the statistics of the batch."""
        super().start(model)
        moving = {id(p) for group in self._optimizer.param_groups for p in group['params']}  # type: ignore[union-attr]
        self._norms = [
            (module, module.running_mean, module.running_var, module.track_running_stats)
            for module in model.modules()
            if isinstance(module, _BatchNorm) and id(module.weight) in moving
        ]
        for module, *_ in self._norms:
            module.track_running_stats = False
        self._hooks = [
            module.register_forward_pre_hook(_batch_statistics(mean, var))
            for module, mean, var, _ in self._norms
        ]

    def stop(self, model: Any) -> None:
        """See the base."""
        for hook in self._hooks:
            hook.remove()
        for module, mean, var, track in self._norms:
            module.running_mean, module.running_var = mean, var
            module.track_running_stats = track
        super().stop(model)

    def loss(self, logits: Tensor) -> Tensor:
        """Mean entropy."""
        return prediction_entropy(logits)


def _batch_statistics(
    mean: Tensor | None, var: Tensor | None
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Hook before a BatchNorm's forward: ``mean`` and ``var`` for one row, else the batch's own."""

    def choose(module: Any, inputs: tuple[Any, ...]) -> None:
        kept = (mean, var) if len(inputs[0]) == 1 else (None, None)
        module.running_mean, module.running_var = kept

    return choose


@ADAPTERS.register_module()
class READ(Adapter):
    """Query, key and value maps of the fusion's attention: they follow confidence and balance.

    Balance is that of a batch: the split goes through shuffled, as for Tent.

    Source: Yang et al., "Test-time Adaptation against Multi-modal Reliability Bias", ICLR 2024.
    """

    def modules(self, model: Any) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
        """Every attention layer of the fusion."""
        for module in model.fusion.modules():
            if isinstance(module, nn.MultiheadAttention):
                yield module, ('in_proj_weight', 'in_proj_bias')

    def loss(self, logits: Tensor) -> Tensor:
        """See :func:`confidence_loss`."""
        return confidence_loss(logits)
