"""QMF's fusion: decisions weighted by their energy."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cal_mm.registry import FUSIONS

from .decision import DecisionFusion

__all__ = ['QMFFusion', 'energy_confidence']


def energy_confidence(logits: Tensor, scale: float) -> Tensor:
    """c = scale * logsumexp(l), the negative energy: [..., C] to [...]; may be negative."""
    return scale * logits.logsumexp(dim=-1)


@FUSIONS.register_module()
class QMFFusion(DecisionFusion):
    """logits = sum over m of c_m l_m with c_m = scale * logsumexp(l_m).

    Source: QMF, Zhang et al., "Provable Dynamic Fusion for Low-Quality Multimodal Data", ICML 2023
    (arXiv 2306.02050). The weights are not normalised over the modalities. Its loss is
    ``FusedCrossEntropy`` + ``UnimodalCrossEntropy`` + ``ConfidenceRanking``, which reads
    ``confidence`` [B, M] (0 where absent).

    Args:
        in_channels: width D_m by modality name.
        num_classes: C.
        scale: of the confidences, > 0.
        detach: stop the gradient of the fused logits in the confidences (not that of an attack, see
            ``differentiable``).
        hidden_channels: width of a hidden layer with ReLU in every head; None: linear heads.
        dropout: probability in [0, 1) after the hidden layers.

    Raises:
        ValueError: ``scale`` is not positive.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int,
        scale: float = 0.1,
        detach: bool = False,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_channels, num_classes, hidden_channels, dropout)
        if scale <= 0:
            raise ValueError(f'QMFFusion: scale must be positive, got {scale}')
        self.scale = scale
        self.detach = detach
        #: set by ``differentiable``: ``detach`` does not count
        self.passes_gradient = False

    def fuse_with_details(
        self, z: dict[str, Tensor], present: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, C], zeros where nothing is present; ``confidence`` [B, M]."""
        logits = self.decisions(z)
        confidence = energy_confidence(logits, self.scale)
        confidence = torch.where(present, confidence, torch.zeros_like(confidence))
        cut = self.detach and not self.passes_gradient
        weights = confidence.detach() if cut else confidence
        return (weights.unsqueeze(-1) * logits).sum(dim=1), {'confidence': confidence}
