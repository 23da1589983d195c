"""TMC's and ETMC's fusion: Dempster's combination of the modalities' evidence."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cal_mm.registry import FUSIONS

from .branch import make_head
from .decision import DecisionFusion, at_least_float32
from .evidential import combined_evidence, dirichlet_log_mean, evidence_from_logits

__all__ = ['EvidentialFusion']


@FUSIONS.register_module()
class EvidentialFusion(DecisionFusion):
    """Dempster's combination of the opinions with evidence e_m = softplus(l_m).

    The logits are the log of the fused Dirichlet's mean, log(alpha / S) with alpha = e + 1, so that
    softmax gives the expected probabilities b + u / C. An absent modality has no evidence, the
    combination's neutral element; where all are absent the prediction is uniform.

    Source: TMC, Han et al., "Trusted Multi-View Classification", ICLR 2021 (arXiv 2102.02051);
    with ``joint_view`` ETMC, Han et al., "Trusted Multi-View Classification with Dynamic Evidential
    Fusion", TPAMI 2022 (arXiv 2204.11423). The loss is ``EvidentialLoss``, which reads ``evidence``
    [B, V, C] of the views (the modalities, then the joint view), ``view_present`` [B, V] and
    ``fused_evidence`` [B, C].

    Args:
        in_channels: width D_m by modality name.
        num_classes: C.
        joint_view: ETMC's pseudo view, a head on all features side by side (absent ones zero).
        hidden_channels: width of a hidden layer with ReLU in every head; None: linear heads.
        dropout: probability in [0, 1) after the hidden layers.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int,
        joint_view: bool = False,
        hidden_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_channels, num_classes, hidden_channels, dropout)
        self.joint_head = None
        if joint_view:
            width = sum(self.in_channels.values())
            self.joint_head = make_head(width, num_classes, hidden_channels, dropout)

    def fuse_with_details(
        self, z: dict[str, Tensor], present: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [B, C] and the evidence."""
        logits = self.decisions(z)
        if self.joint_head is not None:
            joint = self.joint_head(torch.cat([z[m] for m in self.modalities], dim=1))
            logits = torch.cat([logits, at_least_float32(joint).unsqueeze(1)], dim=1)
            present = torch.cat([present, present.any(dim=1, keepdim=True)], dim=1)
        evidence = evidence_from_logits(logits)
        kept = torch.where(present.unsqueeze(-1), evidence, torch.zeros_like(evidence))
        details = dict(
            evidence=evidence, view_present=present, fused_evidence=combined_evidence(kept)
        )
        return dirichlet_log_mean(kept), details

    def unimodal_logits(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Log of the mean of each modality's own Dirichlet, [B, C]."""
        alone = super().unimodal_logits(z)
        evidence = {m: evidence_from_logits(at_least_float32(v)) for m, v in alone.items()}
        return {m: dirichlet_log_mean(e.unsqueeze(1)) for m, e in evidence.items()}
