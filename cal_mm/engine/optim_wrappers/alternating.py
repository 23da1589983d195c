"""MLA: the modalities take turns at a shared head.

Source: Zhang et al., "Multimodal Representation Learning by Alternating Unimodal Adaptation", CVPR
2024 (arXiv 2311.10707).
"""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.optim import OptimWrapper
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.state import ForwardState
from cal_mm.registry import OPTIM_WRAPPERS

from .amp import AnyDeviceAmp
from .owned import Gradients, SelfReducing, reduce_gradients

__all__ = ['AlternatingAmpOptimWrapper', 'AlternatingOptimWrapper', 'updated_projection']


def updated_projection(projection: Tensor, feature: Tensor, alpha: float) -> Tensor:
    """P after a modality with the mean feature r: P - k k^T / (alpha + k . r), k = P r, over its
    Frobenius norm.

    Args:
        projection: P [D, D].
        feature: r [D].
        alpha: > 0.
    """
    k = projection @ feature
    smaller = projection - torch.outer(k, k) / (alpha + k @ feature)
    return smaller / smaller.norm().clamp_min(torch.finfo(smaller.dtype).tiny)


class AlternatingStep(SelfReducing):
    """Mixin: one step per modality and update, in the order of their names.

    A step minimises the cross-entropy of the shared head on one modality's features. The head's
    gradient is projected first, g <- g P^T, so that it disturbs least what the modalities before it
    have learned. Features are encoded once; each modality sees the head that the last one left.

    With accumulation the micro-batches' graphs are kept until the update, so it takes the memory of
    the whole batch. The fusion must have one head for all modalities (``SharedHeadFusion``).

    Args:
        project: False: alternate without the projection.
    """

    def __init__(self, *args: Any, project: bool = True, **kwargs: Any) -> None:
        self.project = project
        self._states: list[ForwardState] = []
        self._projection: Tensor | None = None
        super().__init__(*args, **kwargs)

    def bind(self, model: Any) -> None:
        """See ``BoundStep``.

        Raises:
            TypeError: the fusion has no head that the modalities share.
        """
        super().bind(model)
        fusion = self._model.fusion
        if not hasattr(fusion, 'shared_head'):
            raise TypeError(
                f'{type(self).__name__} needs a fusion with one head for all modalities, such as '
                f'SharedHeadFusion; {type(fusion).__name__} has none'
            )

    def take_batch(self) -> None:
        """Keep the batch's state."""
        self._states.append(self._model.record.take_state())

    def update(self, step: Callable[[], None]) -> None:
        """A step per modality."""
        states, self._states = self._states, []
        for modality in self._model.modalities:
            self._gradients(modality, states)
            step()
        self._model.finish_update()

    def _gradients(self, modality: str, states: list[ForwardState]) -> None:
        """Write ``p.grad`` of the modality's parameters and of the head."""
        head = self._model.fusion.shared_head
        count = sum(s.batch_size for s in states)
        total: Tensor = torch.zeros((), device=states[0].logits.device)
        for state in states:
            logits = head(state.z[modality].float()).float()
            ce = F.cross_entropy(logits, state.known_labels, reduction='none')
            present = state.present_mask(modality)
            total = total + (ce if present is None else ce * present).sum()
        params = [*self._model.modality_parameters()[modality], *head.parameters()]
        params = [p for p in params if p.requires_grad]
        found = torch.autograd.grad(self._scaled(total / count), params, allow_unused=True)
        grads: Gradients = {
            p: torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)
        }
        reduce_gradients(grads)
        for p, grad in grads.items():
            p.grad = grad
        if self.project:
            self._project(head, torch.cat([s.z[modality].detach().float() for s in states]))

    @torch.no_grad()
    def _project(self, head: torch.nn.Linear, features: Tensor) -> None:
        """The very first step is not projected: nothing was learned before it."""
        mean = features.mean(dim=0)
        all_reduce(mean, 'mean')
        if self._projection is None:
            self._projection = torch.eye(len(mean), device=mean.device)
            return
        per_epoch = max(1, self.progress.max_updates // max(1, self.progress.max_epochs))
        alpha = 0.1 ** (1 + self.progress.update % per_epoch / per_epoch)
        self._projection = updated_projection(self._projection, mean, alpha)
        if head.weight.grad is not None:
            head.weight.grad = head.weight.grad @ self._projection.T.to(head.weight.grad)

    def method_state(self) -> dict[str, Any]:
        """P, once there is one."""
        return {} if self._projection is None else {'projection': self._projection.clone()}

    def load_method_state(self, state: dict[str, Any]) -> None:
        """P."""
        device = self._model.class_log_prior.device if self._model is not None else 'cpu'
        self._projection = state['projection'].clone().to(device)


@OPTIM_WRAPPERS.register_module()
class AlternatingOptimWrapper(AlternatingStep, OptimWrapper):
    """mmengine's ``OptimWrapper`` with MLA's alternating steps; see ``AlternatingStep``."""


@OPTIM_WRAPPERS.register_module()
class AlternatingAmpOptimWrapper(AlternatingStep, AnyDeviceAmp):
    """mmengine's ``AmpOptimWrapper`` with MLA's alternating steps; see ``AlternatingStep``."""
