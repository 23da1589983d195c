"""AMCo: the modality that the prediction depends on is masked, more and more.

Source: Zhou et al., "Adaptive Mask Co-Optimization for Modal Dependence in Multimodal Learning",
ICASSP 2023; formulas from the re-implementation in the public BalanceBenchmark.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cal_mm.models.fusions.functional import masked_softmax
from cal_mm.models.update_mean import UpdateMean
from cal_mm.registry import FEATURE_TRANSFORMS

from .base import FeatureContext, FeatureTransform

__all__ = ['AMCo', 'dependence', 'masked_share']


def dependence(logits: list[Tensor], present: Tensor | None = None) -> Tensor:
    """Share of the probability mass over all modalities' logits together: M x [B, C] -> [B, M].

    softmax over the M C logits side by side, summed within each modality. One that is absent
    (``present``: bool [B, M]) has no logits and the share 0.
    """
    mass = torch.stack([v.float().logsumexp(dim=-1) for v in logits], dim=1)
    return mass.softmax(dim=1) if present is None else masked_softmax(mass, present)


def masked_share(step: float, length: float) -> float:
    """p = sin(pi / 2 * min(step, length) / length), in [0, 1]."""
    return math.sin(math.pi / 2 * min(step, length) / length)


@FEATURE_TRANSFORMS.register_module()
class AMCo(FeatureTransform):
    """In training: z_m <- z_m mask / (1 - p) for the modality that the prediction depends on.

    m is dependent if its mean :func:`dependence` reaches ``threshold``, over the samples that have
    it and another one; the update before decides.
    The mask zeroes int(p D_m) dimensions, the same for the whole update; p = :func:`masked_share`
    of a step that grows by epoch / 10 with each update of an epoch and starts again with the next.

    Args:
        threshold: sigma in (0, 1].
        length: steps until nearly everything is masked, > 0.
        most: least factor 1 - p, so the largest scaling is 1 / ``most``.
    """

    def __init__(self, threshold: float = 0.6, length: float = 500.0, most: float = 0.1) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise ValueError(f'AMCo: threshold must be in (0, 1], got {threshold}')
        if length <= 0 or not 0 < most <= 1:
            raise ValueError(
                f'AMCo: length must be positive and most in (0, 1], got {length} and {most}'
            )
        self.threshold, self.length, self.most = threshold, length, most

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """The dependence, a number per modality."""
        self.shares = UpdateMean(len(channels))

    def forward(self, z: dict[str, Tensor], context: FeatureContext) -> dict[str, Tensor]:
        """See the class; in evaluation z as it is."""
        draws, progress = context.draws, context.progress
        if not context.training or draws is None or len(z) < 2:
            return z
        with torch.no_grad():
            logits = [context.unimodal_logits(m, z[m]) for m in context.modalities]
            shares = dependence(logits, context.present)
        seen = context.present
        if seen is not None:  # a modality alone has all of the mass, whatever its logits
            seen = seen & (seen.sum(dim=1, keepdim=True) > 1)
        mean = self.shares(shares, draws.counter, seen)
        if mean is None or float(mean.max()) < self.threshold:
            return z
        done = progress.update % max(1, -(-progress.max_updates // max(1, progress.max_epochs)))
        share = masked_share(done * progress.epoch / 10, self.length)
        m = context.modalities[int(mean.argmax())]
        width = z[m].shape[1]
        order = draws.shared(f'amco/{m}', width)[0].argsort()
        mask = torch.ones(width, device=z[m].device)
        mask[order[: int(share * width)]] = 0
        return {**z, m: z[m] * mask.to(z[m]) / max(1 - share, self.most)}
