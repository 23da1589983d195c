"""What every gate shares: the interface, and what it may use of the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from cal_mm.models.bottlenecks import BottleneckUncertainty
from cal_mm.models.contribution import ContributionTracker
from cal_mm.models.contribution.typicality import LEAST
from cal_mm.models.state import ForwardState

from .functional import gate_features

__all__ = ['FeatureGate', 'Gate', 'GateParts']


@dataclass(frozen=True)
class GateParts:
    """What a gate may use of the model besides the forward state.

    Attributes:
        fuse: the fusion: ``({m: [B, D_m]}, present [B, M] or None) -> [B, C]``.
        bottlenecks: by modality.
        log_prior: log class prior [C] of the training samples.
        contribution: temperatures, typicality and W of the population, or None.
        uncertainty: statistics of the bottlenecks' posteriors, or None.
        weights: per-sample W [B, M], or None where it is not measured.
    """

    fuse: Callable[[dict[str, Tensor], Tensor | None], Tensor]
    bottlenecks: Mapping[str, nn.Module]
    log_prior: Tensor
    contribution: ContributionTracker | None = None
    uncertainty: BottleneckUncertainty | None = None
    weights: Tensor | None = None


class Gate(nn.Module):
    """How the prediction is made of a forward pass, at inference only.

    A gate has no parameters of its own: whatever it needs lies in the model, so that one checkpoint
    can be tested with every gate (``tools/test.py --gate``). It is differentiable, for attacks.

    Attributes:
        needs_heads: the model must have unimodal heads.
        needs_contribution: the model must measure W.
        needs_uncertainty: every bottleneck must have a posterior with a KL.
    """

    needs_heads = False
    needs_contribution = False
    needs_uncertainty = False

    def forward(self, state: ForwardState, parts: GateParts) -> Tensor:
        """Logits [B, C], float32."""
        raise NotImplementedError(f'{type(self).__name__} must implement forward(state, parts)')

    def unfitted(self, parts: GateParts) -> str | None:
        """What this gate reads and nothing has fitted yet, in words; None where all is there."""
        tracker, uncertainty = parts.contribution, parts.uncertainty
        if self.needs_contribution and tracker is not None and not tracker.is_measured:
            return 'the contribution W was never measured'
        if self.needs_uncertainty and uncertainty is not None and not uncertainty.fitted:
            return (
                "the statistics of the bottlenecks' posteriors were never fitted, which takes "
                f'{LEAST} validation samples with every modality'
            )
        return None

    def partly_fitted(self, parts: GateParts) -> str | None:
        """What this gate can do without but is worse for, in words; None where all is there."""
        return None


class FeatureGate(Gate):
    """Base of the gates that weigh the features before the fusion: z_m times n * w_m, where n is
    the number of modalities that the sample has.

    Equal weights leave the prediction as it is. What a weight means then depends on the fusion: to
    one that averages or normalises, a factor is less than to one that adds up.
    """

    def weights(self, state: ForwardState, parts: GateParts) -> Tensor:
        """w [B, M], sums to one over the present modalities, 0 for a missing one."""
        raise NotImplementedError(f'{type(self).__name__} must implement weights(state, parts)')

    def forward(self, state: ForwardState, parts: GateParts) -> Tensor:
        """Logits [B, C] of the weighed features."""
        z = gate_features(state.z, self.weights(state, parts), state.present)
        return parts.fuse(z, state.present).float()
