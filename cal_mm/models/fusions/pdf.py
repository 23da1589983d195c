"""PDF's fusion: decisions weighted by predicted confidences."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from cal_mm.models.noise import isolated_rng
from cal_mm.registry import FUSIONS

from .decision import DecisionFusion, at_least_float32
from .functional import masked_softmax

__all__ = ['PDFFusion', 'co_belief', 'distribution_uniformity', 'relative_calibration']


def co_belief(log_confidence: Tensor, present: Tensor) -> Tensor:
    """p_m + holo_m with holo_m = sum over j != m of log p_j / sum over j of log p_j.

    Args:
        log_confidence: log p_m <= 0, [B, M].
        present: bool [B, M]; absent modalities are left out of both sums.

    Returns:
        [B, M]; between 0 and 2 where present, 0 where absent.
    """
    doubt = torch.where(present, -log_confidence, torch.zeros_like(log_confidence))
    total = doubt.sum(dim=-1, keepdim=True)
    # all certain: 0 / 0 in the formula, nobody needs the others
    holo = (total - doubt) / total.clamp_min(torch.finfo(doubt.dtype).tiny)
    belief = log_confidence.exp() + holo
    return torch.where(present, belief, torch.zeros_like(belief))


def distribution_uniformity(logits: Tensor) -> Tensor:
    """DU = mean over classes of abs(softmax(l) - 1 / C): [..., C] to [...]."""
    return (logits.softmax(dim=-1) - 1 / logits.shape[-1]).abs().mean(dim=-1)


def relative_calibration(uniformity: Tensor, present: Tensor) -> Tensor:
    """k_m = min(1, DU_m / mean over the others of DU_j), 1 where there are no others.

    Args:
        uniformity: DU_m >= 0, [B, M].
        present: bool [B, M].

    Returns:
        [B, M] in [0, 1].
    """
    own = torch.where(present, uniformity, torch.zeros_like(uniformity))
    others = (present.sum(dim=-1, keepdim=True) - present.to(own.dtype)).clamp_min(1)
    mean = (own.sum(dim=-1, keepdim=True) - own) / others
    ratio = own / mean.clamp_min(torch.finfo(own.dtype).tiny)
    return torch.where(own >= mean, torch.ones_like(own), ratio)


@FUSIONS.register_module()
class PDFFusion(DecisionFusion):
    """logits = sum over m of w_m l_m, w = softmax over the present m of k_m (p_m + holo_m).

    p_m = sigmoid(ConfidNet(z_m)) on detached features predicts the probability of the true class;
    holo_m is the others' share of the doubt (:func:`co_belief`). In training k_m = 1; in evaluation
    :func:`relative_calibration` lowers it where the modality's distribution is flatter than the
    others'. The fused logits have no gradient in w, and p_m none in z_m, unless an attack asks for
    them (``differentiable``). For more than two modalities the sums and the mean over the others
    are ours.

    Source: PDF, Cao et al., "Predictive Dynamic Fusion", ICML 2024 (arXiv 2406.04802). Its loss is
    ``FusedCrossEntropy`` + ``UnimodalCrossEntropy`` + ``TrueClassConfidence``, which reads
    ``confidence`` p [B, M]; ``weights`` w [B, M] is there to look at.

    Args:
        in_channels: width D_m by modality name.
        num_classes: C.
        calibrate: use k_m in evaluation.
        activation: between the layers D, 2 D, D, 1 of a ConfidNet: 'none' (as published) or 'relu'.
        hidden_channels: width of a hidden layer with ReLU in every head; None: linear heads.
        dropout: probability in [0, 1) after the hidden layers.

    Raises:
        ValueError: an unknown ``activation``.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int,
        calibrate: bool = True,
        activation: str = 'none',
        hidden_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_channels, num_classes, hidden_channels, dropout)
        if activation not in ('none', 'relu'):
            raise ValueError(f"PDFFusion: activation must be 'none' or 'relu', got {activation!r}")
        self.calibrate = calibrate
        #: set by ``differentiable``: gradients go through p_m and w
        self.passes_gradient = False
        with isolated_rng('PDFFusion'):
            self.confid_nets = nn.ModuleDict(
                {m: _confid_net(d, activation) for m, d in self.in_channels.items()}
            )

    def _log_confidence(self, z: dict[str, Tensor]) -> Tensor:
        if not self.passes_gradient:
            z = {m: v.detach() for m, v in z.items()}
        scores = [self.confid_nets[m](z[m]) for m in self.modalities]
        return functional.logsigmoid(at_least_float32(torch.cat(scores, dim=1)))

    def fuse_with_details(
        self, z: dict[str, Tensor], present: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, C], zeros where nothing is present; ``confidence`` and ``weights`` [B, M]."""
        logits, log_confidence = self.decisions(z), self._log_confidence(z)
        with nullcontext() if self.passes_gradient else torch.no_grad():
            belief = co_belief(log_confidence, present)
            if self.calibrate and not self.training:
                belief = belief * relative_calibration(distribution_uniformity(logits), present)
            weights = masked_softmax(belief, present)
        fused = (weights.unsqueeze(-1) * logits).sum(dim=1)
        return fused, {'confidence': log_confidence.exp(), 'weights': weights}


def _confid_net(width: int, activation: str) -> nn.Sequential:
    """Linear layers D, 2 D, D, 1; the sigmoid is the caller's."""
    between = [nn.ReLU()] if activation == 'relu' else []
    layers = [nn.Linear(width, 2 * width), *between, nn.Linear(2 * width, width), *between]
    return nn.Sequential(*layers, nn.Linear(width, 1))
