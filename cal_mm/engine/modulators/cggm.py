"""CGGM: encoders whose auxiliary classifier improves fast are held back.

Source: Guo et al., "Classifier-guided Gradient Modulation for Enhanced Multimodal Learning",
NeurIPS 2024 (arXiv 2411.01409).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cal_mm.models.losses.direction import improvement_balance
from cal_mm.models.state import ForwardState
from cal_mm.registry import MODULATORS
from cal_mm.structures import TrainProgress

from .base import Modulator, present_means, with_presence

__all__ = ['CGGM']


@MODULATORS.register_module()
class CGGM(Modulator):
    """k_m = rho B_m with B of ``improvement_balance`` for the change of the auxiliary classifiers'
    accuracy since the update before.

    The auxiliary classifiers are the unimodal heads; let them learn as probes, on detached features
    (``UnimodalCrossEntropy(weight=0)``).

    Args:
        rho: > 0.
    """

    needs_contribution = False

    def __init__(self, rho: float = 1.3) -> None:
        if rho <= 0:
            raise ValueError(f'CGGM: rho must be > 0, got {rho}')
        self.rho = rho
        self._before: Tensor | None = None

    def statistics(self, state: ForwardState) -> Tensor:
        """Whether each modality's classifier is right, and who has it: [B, 2 M]."""
        rows = [
            state.unimodal_logits(m, detach=True).argmax(dim=-1) == state.known_labels
            for m in state.modalities
        ]
        return with_presence(torch.stack(rows, dim=1).double(), state.present)

    def finish(self, values: Tensor) -> Tensor:
        """Accuracies [M] over the samples that have the modality."""
        return present_means(values)

    def __call__(self, values: Tensor, progress: TrainProgress) -> Tensor:
        """Accuracies [M], in [0, 1] -> k [M]; before the first update they count as 0.

        Where no sample has a modality (NaN) nothing is compared: B = (M - 1) / M for all.
        """
        before = torch.zeros_like(values) if self._before is None else self._before.to(values)
        self._before = torch.where(values.isnan(), before, values)
        # a factor of exactly 0 would end training of the modality
        return (self.rho * improvement_balance(values - before)).clamp_min(1e-6)

    def state(self) -> dict[str, Tensor]:
        """The accuracies of the last update."""
        return {} if self._before is None else {'before': self._before.clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`state`."""
        self._before = state['before'].clone()
