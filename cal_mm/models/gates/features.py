"""Gates that weigh the features of each sample before the fusion, and the one that does nothing.

Source: ours, as options of the reconstruction of CAL.
"""

import torch
from torch import Tensor

from cal_mm.models.bottlenecks import posterior_numbers
from cal_mm.models.contribution import Confidence, shares
from cal_mm.models.fusions.functional import masked_softmax
from cal_mm.models.state import ForwardState
from cal_mm.registry import GATES

from .base import FeatureGate, Gate, GateParts
from .functional import log_two_sided_share

__all__ = ['ConfidenceGate', 'ContributionGate', 'NoGate', 'UncertaintyGate']

MEASURES = ('both', 'kl', 'entropy')


@GATES.register_module(name=['NoGate', 'none'])
class NoGate(Gate):
    """The fused logits as they are."""

    def forward(self, state: ForwardState, parts: GateParts) -> Tensor:
        """y [B, C]."""
        return state.logits.float()


@GATES.register_module(name=['ContributionGate', 'contribution'])
class ContributionGate(FeatureGate):
    """Features weighed by the sample's label-free contribution W."""

    needs_contribution = True

    def weights(self, state: ForwardState, parts: GateParts) -> Tensor:
        """W [B, M]."""
        if parts.weights is None:
            raise ValueError('ContributionGate needs W of every sample (model.contribution)')
        return parts.weights


@GATES.register_module(name=['ConfidenceGate', 'confidence'])
class ConfidenceGate(FeatureGate):
    """Features weighed by the confidence D_m of the unimodal prediction alone.

    Args:
        kind: ``entropy``, ``max_prob``, ``margin`` or ``energy``, see
            ``cal_mm.models.contribution.confidence``.
    """

    needs_heads = True

    def __init__(self, kind: str = 'entropy') -> None:
        super().__init__()
        self.confidence = Confidence(kind)
        if self.confidence.needs_labels:
            raise ValueError(f'ConfidenceGate: kind={kind!r} needs labels; inference has none')

    def weights(self, state: ForwardState, parts: GateParts) -> Tensor:
        """D [B, M], normalised over the present modalities."""
        return shares(self.confidence(state), state.present)


@GATES.register_module(name=['UncertaintyGate', 'uncertainty'])
class UncertaintyGate(FeatureGate):
    """Features weighed by how usual the bottleneck's posterior q(z | h) is.

    w_m is proportional to a_m = sigmoid((offset - max abs(z)) / slope), where z are the
    posterior's KL and its entropy, standardised by clean validation data. Both sides count: noise
    often *narrows* the posterior of a trained bottleneck, and moves its KL either way.

    Args:
        measure: ``both``, ``kl`` or ``entropy``.
        offset: standard deviations that still pass.
        slope: > 0, how sharply it falls.
    """

    needs_uncertainty = True

    def __init__(self, measure: str = 'both', offset: float = 3.0, slope: float = 0.5) -> None:
        super().__init__()
        if measure not in MEASURES:
            raise ValueError(f'UncertaintyGate: measure must be one of {MEASURES}, got {measure!r}')
        if not slope > 0:
            raise ValueError(f'UncertaintyGate: slope must be positive, got {slope}')
        self.measure, self.offset, self.slope = measure, offset, slope

    def weights(self, state: ForwardState, parts: GateParts) -> Tensor:
        """a [B, M], normalised over the present modalities; equal before anything is fitted."""
        if parts.uncertainty is None:
            raise ValueError('UncertaintyGate needs bottlenecks with a KL (VariationalBottleneck)')
        z = parts.uncertainty(posterior_numbers(parts.bottlenecks, state.features, state.kl))
        chosen = {'both': z, 'kl': z[..., :1], 'entropy': z[..., 1:]}[self.measure]
        log_a = log_two_sided_share(chosen, self.offset, self.slope)
        log_a = log_a.clamp_min(torch.finfo(log_a.dtype).min / 2)
        return (
            log_a.softmax(dim=1) if state.present is None else masked_softmax(log_a, state.present)
        )
