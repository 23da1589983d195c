"""QMF's regulariser: confidences must rank samples as the history of their losses does."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent
from .sample_history import SampleHistory

__all__ = ['ConfidenceRanking', 'normalised_history', 'pairwise_ranking']

MARGINS = ('released', 'paper')


def normalised_history(sums: Tensor, least: Tensor, largest: Tensor) -> Tensor:
    """(kappa - min) / (max - min) over the training data, 0 where all are the same: [..., K]."""
    span = largest - least
    return torch.where(span > 0, (sums - least) / torch.where(span > 0, span, 1.0), 0.0)


def pairwise_ranking(confidence: Tensor, history: Tensor, margin: str = 'released') -> Tensor:
    """Ranking loss of every sample i against the next one j of the batch (the last: the first).

    With t = sign(kappa_i - kappa_j) and d = abs(kappa_i - kappa_j): the sample with the greater
    history of losses must have the lower confidence,

    - ``'released'``: max(0, t (c_i - c_j) - d) as the public code computes it: only where a wrong
      order exceeds d, the ranking costs something;
    - ``'paper'``: max(0, t (c_i - c_j) + d): the right order must hold by d.

    Args:
        confidence: c, [B] or [B, K].
        history: kappa, normalised to [0, 1], same shape.
        margin: 'released' or 'paper'.

    Returns:
        same shape, >= 0; 0 for pairs with the same history.
    """
    gap = history - history.roll(-1, dims=0)
    slack = gap.abs() if margin == 'released' else -gap.abs()
    return (gap.sign() * (confidence - confidence.roll(-1, dims=0)) - slack).clamp_min(0)


@LOSSES.register_module()
class ConfidenceRanking(LossComponent):
    """weight times the mean over the pairs of :func:`pairwise_ranking`: ``loss_rank/<m>``.

    kappa is the sum of the sample's unimodal cross-entropies over the training so far, this batch
    included, scaled to [0, 1] by the least and largest of all samples (in the first epoch the least
    is 0: the samples that were not seen yet). It is kept by sample id, the same on every rank, and
    in the checkpoint. An absent modality adds nothing; a pair needs it in both samples.

    Source: QMF, Zhang et al., ICML 2023 (arXiv 2306.02050), after correctness ranking (Moon et al.,
    ICML 2020, arXiv 2007.01458). Needs a fusion that gives ``confidence`` (``QMFFusion``) and
    unimodal logits (``unimodal_head='fusion'``).

    Args:
        weight: lambda, >= 0.
        margin: 'released' (public code) or 'paper'.

    Raises:
        ValueError: a negative weight or an unknown margin.
    """

    def __init__(self, weight: float = 1.0, margin: str = 'released') -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f'ConfidenceRanking: weight must not be negative, got {weight}')
        if margin not in MARGINS:
            raise ValueError(f'ConfidenceRanking: margin must be one of {MARGINS}, got {margin!r}')
        self.weight = weight
        self.margin = margin

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """One column of history per modality."""
        self.history = SampleHistory(len(channels))

    def _kappa(self, state: ForwardState) -> Tensor:
        losses = [
            F.cross_entropy(
                state.unimodal_logits(m).detach().float(), state.known_labels, reduction='none'
            )
            for m in state.modalities
        ]
        values = torch.stack(losses, dim=1).double()
        if state.present is not None:
            values = values * state.present
        self.history.book(state.sample_ids, values)
        least, largest = self.history.extent()
        if state.progress.epoch == 0:
            least = torch.zeros_like(least)
        return normalised_history(self.history.read(state.sample_ids), least, largest)

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_rank/<m>': scalar}`` for every modality."""
        confidence = state.details.get('confidence')
        if confidence is None:
            raise ValueError(
                "ConfidenceRanking needs the fusion's confidences: use "
                'fusion=dict(type="QMFFusion")'
            )
        with torch.no_grad():
            kappa = self._kappa(state).to(confidence.dtype)
        cost = pairwise_ranking(confidence, kappa, self.margin)
        if state.present is not None:
            cost = cost * (state.present & state.present.roll(-1, dims=0))
        means = self.weight * cost.mean(dim=0)
        return {f'loss_rank/{m}': means[i] for i, m in enumerate(state.modalities)}
