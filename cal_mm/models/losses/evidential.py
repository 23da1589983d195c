"""TMC's loss on the evidence of every view and of their combination."""

from torch import Tensor

from cal_mm.models.fusions.evidential import evidential_loss
from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent

__all__ = ['EvidentialLoss']


@LOSSES.register_module()
class EvidentialLoss(LossComponent):
    """Expected cross-entropy under the Dirichlet plus an annealed KL, for each view and the fusion.

    psi(S) - psi(alpha_y) + min(1, t / T) KL(Dir(e (1 - y) + 1) || Dir(1)), t = finished epochs:
    ``loss_evidence/<m>``, ``loss_evidence_joint`` (ETMC's joint view), ``loss_evidence_fused``.
    A view counts where it is present.

    Source: TMC, Han et al., ICLR 2021 (arXiv 2102.02051). Needs ``EvidentialFusion``.

    Args:
        annealing_epochs: T > 0.
        weight: factor of everything, >= 0.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, annealing_epochs: float = 10, weight: float = 1.0) -> None:
        super().__init__()
        if annealing_epochs <= 0:
            raise ValueError(
                f'EvidentialLoss: annealing_epochs must be positive, got {annealing_epochs}'
            )
        if weight < 0:
            raise ValueError(f'EvidentialLoss: weight must not be negative, got {weight}')
        self.annealing_epochs = annealing_epochs
        self.weight = weight

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """Named scalars, see the class."""
        evidence = state.details.get('evidence')
        if evidence is None:
            raise ValueError(
                "EvidentialLoss needs the fusion's evidence: use "
                'fusion=dict(type="EvidentialFusion")'
            )
        labels = state.known_labels
        kl_weight = min(1.0, state.progress.epoch / self.annealing_epochs)
        views = evidential_loss(evidence, labels[:, None].expand(-1, evidence.shape[1]), kl_weight)
        means = (views * state.details['view_present']).mean(dim=0)
        names = [f'loss_evidence/{m}' for m in state.modalities]
        names += ['loss_evidence_joint'] * (len(means) - len(names))
        losses = dict(zip(names, self.weight * means, strict=True))
        fused = evidential_loss(state.details['fused_evidence'], labels, kl_weight)
        return {**losses, 'loss_evidence_fused': self.weight * fused.mean()}
