"""OPM: the dominant modality's features are dropped at random.

Source: Wei, Hu et al., "On-the-fly Modulation for Balanced Multimodal Learning", IEEE TPAMI 2024.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cal_mm.models.noise import SampleDraws
from cal_mm.models.update_mean import UpdateMean
from cal_mm.registry import FEATURE_TRANSFORMS

from .base import FeatureContext, FeatureTransform

__all__ = ['OPM', 'drop_probabilities', 'true_class_probabilities']


def true_class_probabilities(z: Mapping[str, Tensor], context: FeatureContext) -> Tensor:
    """p_m(label) under the unimodal logits, without gradient: [B, M].

    Raises:
        ValueError: there are no labels, or no unimodal logits.
    """
    if context.labels is None:
        raise ValueError('the probability of the true class needs labels')
    index = context.labels[:, None]
    with torch.no_grad():
        rows = [
            context.unimodal_logits(m, z[m]).float().softmax(dim=-1).gather(1, index)[:, 0]
            for m in context.modalities
        ]
    return torch.stack(rows, dim=1)


def drop_probabilities(scores: Tensor, q_base: float, strength: float) -> Tensor:
    """q_m = q_base (1 + strength tanh(rho_m - 1)) where rho_m > 1, else 0; at most 1.

    rho_m = S_m / mean of the others' S: for two modalities S_m / S_other.

    Args:
        scores: S [M] > 0, mean probability of the true class.
        q_base: in [0, 1].
        strength: lambda >= 0.

    Returns:
        [M]; the weakest modality's is 0.
    """
    if len(scores) < 2:
        return torch.zeros_like(scores)
    others = (scores.sum() - scores) / (len(scores) - 1)
    excess = (scores / others.clamp_min(1e-12) - 1).clamp_min(0)
    q = q_base * (1 + strength * torch.tanh(excess))
    return torch.where(excess > 0, q, torch.zeros_like(q)).clamp(0, 1)


@FEATURE_TRANSFORMS.register_module()
class OPM(FeatureTransform):
    """In a training update, with probability ``p_exe``: z_m <- z_m mask_m / (1 - theta).

    mask_m is Bernoulli(1 - q_m), theta = sum_m D_m q_m / sum_m D_m. q follows from the scores of
    the update before, so that it depends neither on micro-batches nor on ranks. A sample that
    would lose every modality it has keeps them.

    Args:
        q_base: probability of dropping a modality that is barely dominant, in [0, 1].
        strength: lambda >= 0, how much more one that dominates clearly is dropped.
        p_exe: probability in [0, 1] that an update drops at all.
        drop: ``sample``: a sample's whole feature (the public code); ``dimension``: each dimension
            of it on its own.
        begin: epochs before which nothing is dropped.
        end: epochs from which on nothing is dropped; None: never.
    """

    def __init__(
        self,
        q_base: float = 0.4,
        strength: float = 0.5,
        p_exe: float = 0.7,
        drop: str = 'sample',
        begin: int = 0,
        end: int | None = None,
    ) -> None:
        super().__init__()
        if not (0 <= q_base <= 1 and 0 <= p_exe <= 1):
            raise ValueError(f'OPM: q_base and p_exe must be in [0, 1], got {q_base} and {p_exe}')
        if strength < 0:
            raise ValueError(f'OPM: strength must not be negative, got {strength}')
        if drop not in ('sample', 'dimension'):
            raise ValueError(f"OPM: drop must be 'sample' or 'dimension', got {drop!r}")
        self.q_base, self.strength, self.p_exe, self.drop = q_base, strength, p_exe, drop
        self.begin, self.end = begin, end

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """The scores, a number per modality."""
        self.widths = [channels[m] for m in sorted(channels)]
        self.scores = UpdateMean(len(channels))

    def forward(self, z: dict[str, Tensor], context: FeatureContext) -> dict[str, Tensor]:
        """See the class; in evaluation z as it is."""
        draws = context.draws
        if not context.training or draws is None or len(z) < 2:
            return z
        epoch = context.progress.epoch
        if epoch < self.begin or (self.end is not None and epoch >= self.end):
            return z
        scores = self.scores(true_class_probabilities(z, context), draws.counter, context.present)
        if scores is None or float(draws.shared('opm', 1)) >= self.p_exe:
            return z
        q = drop_probabilities(scores, self.q_base, self.strength).tolist()
        theta = sum(w * p for w, p in zip(self.widths, q, strict=True)) / sum(self.widths)
        if theta >= 1:
            return z
        keep = self._masks(z, q, draws, context)
        return {m: z[m] * keep[m].to(z[m]) / (1 - theta) for m in context.modalities}

    def _masks(
        self,
        z: Mapping[str, Tensor],
        q: list[float],
        draws: SampleDraws,
        context: FeatureContext,
    ) -> dict[str, Tensor]:
        masks = {}
        for m, p in zip(context.modalities, q, strict=True):
            lanes = 1 if self.drop == 'sample' else z[m].shape[1]
            masks[m] = draws.uniform(f'opm/{m}', lanes) >= p
        alive = torch.stack([masks[m].any(dim=1) for m in context.modalities], dim=1)
        if context.present is not None:
            alive = alive & context.present
        rescued = ~alive.any(dim=1, keepdim=True)
        return {m: mask | rescued for m, mask in masks.items()}
