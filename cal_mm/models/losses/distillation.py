"""UMT: each encoder also learns the features of a teacher that saw its modality alone.

Source: Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning", ICML 2023
(arXiv 2305.01233).
"""

from typing import Any

import torch
from torch import Tensor, nn

from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = ['TeacherDistillation']


@LOSSES.register_module()
class TeacherDistillation(LossComponent):
    """``loss_umt/<m>`` = weight * mean over samples and dimensions of (z_m - teacher's z_m)^2.

    z_m is the bottleneck's mean, so the encoder's output where the bottleneck is the identity.
    ``TeacherHook`` brings the teachers; before that there is no loss. They belong to the run, not
    to the model: its state dict does not hold them.

    Args:
        weight: >= 0.
    """

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f'TeacherDistillation: weight must not be negative, got {weight}')
        self.weight = weight
        # in a list, so that they are no submodule
        self._teachers: list[dict[str, nn.Module]] = []

    @property
    def teachers(self) -> dict[str, nn.Module] | None:
        """Encoder and bottleneck of each modality's teacher, frozen; None without."""
        return self._teachers[0] if self._teachers else None

    def set_teachers(self, teachers: dict[str, nn.Module]) -> None:
        """Take over teachers: {m: module with ``encoder`` (or None) and ``bottleneck``}."""
        for module in teachers.values():
            module.eval().requires_grad_(False)
        self._teachers = [teachers]

    @torch.no_grad()
    def _target(self, state: ForwardState, modality: str) -> Tensor:
        teacher: Any = (self.teachers or {})[modality]
        if teacher.encoder is None:  # frozen: the student's features are the teacher's
            h = state.features[modality]
        else:
            mask = (state.masks or {}).get(modality)
            h = teacher.encoder(state.inputs[modality], mask)
        return teacher.bottleneck.mean(h).float()

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_umt/<m>': scalar}``; empty without teachers."""
        losses = {}
        for m in state.modalities if self.teachers is not None else ():
            error = (state.mu[m].float() - self._target(state, m)).square().mean(dim=1)
            losses[f'loss_umt/{m}'] = self.weight * masked_mean(error, state.present_mask(m))
        return losses
