"""PMR: the weaker modality is pulled to its own class prototypes.

Source: Fan et al., "PMR: Prototypical Modal Rebalance for Multimodal Learning", CVPR 2023
(arXiv 2211.07089).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.state import ForwardState
from cal_mm.models.update_mean import UpdateMean
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = ['PrototypeRebalance', 'class_means', 'prototype_logits', 'rebalance_coefficients']


def prototype_logits(z: Tensor, prototypes: Tensor) -> Tensor:
    """Minus the Euclidean distance to every prototype: [B, D], [C, D] -> [B, C], float32 at least.

    Computed from differences; a distance of 0 has the gradient 0, not NaN.
    """
    z = z if z.dtype == torch.float64 else z.float()
    square = (z[:, None] - prototypes.to(z)[None]).square().sum(dim=-1)
    return -torch.where(square > 0, square, 1.0).sqrt() * (square > 0)


def class_means(
    z: Tensor, labels: Tensor, num_classes: int, present: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean of the features of each class.

    Args:
        z: [N, D].
        labels: int64 [N].
        num_classes: C.
        present: bool [N], the samples that have the modality; None: all.

    Returns:
        ``(means [C, D], seen bool [C])``; the mean of a class that is not there is 0.
    """
    weight = F.one_hot(labels, num_classes).to(z)
    if present is not None:
        weight = weight * present[:, None]
    count = weight.sum(dim=0)
    return weight.T @ z / count.clamp_min(1)[:, None], count > 0


def rebalance_coefficients(scores: Tensor, rule: str = 'constant') -> Tensor:
    """How strongly each modality's prototype loss counts, in [0, 1].

    Args:
        scores: S [M] > 0, mean probability of the true class from the prototypes.
        rule: ``constant``: 1 for the weakest modality, 0 for the others (the public code);
            ``gap``: clip(max S / S_m - 1, 0, 1) (the paper; for M > 2 the strongest modality is the
            reference, ours).

    Returns:
        [M]; all 0 where every modality is equally strong.
    """
    if rule == 'gap':
        return (scores.max() / scores - 1).clamp(0, 1)
    weakest = torch.zeros_like(scores)
    if bool(scores.min() < scores.max()):
        weakest[scores.argmin()] = 1
    return weakest


@LOSSES.register_module()
class PrototypeRebalance(LossComponent):
    """``loss_pmr/<m>`` = alpha c_m CE(-distance(z_m, prototypes of m)), nats.

    The prototypes are the class means of z_m that ``PrototypeHook`` measures before each epoch;
    before the first measurement there is no loss. c_m follows from the scores of the update
    before, so that it depends neither on micro-batches nor on ranks.

    Args:
        alpha: strength, >= 0.
        coefficient: see :func:`rebalance_coefficients`.
        momentum: weight in [0, 1) of the old prototypes at a new measurement.
        begin: epochs before which there is no loss.
        end: epochs from which on there is none; None: never.
    """

    known: Tensor

    def __init__(
        self,
        alpha: float = 1.0,
        coefficient: str = 'constant',
        momentum: float = 0.2,
        begin: int = 0,
        end: int | None = None,
    ) -> None:
        super().__init__()
        if alpha < 0:
            raise ValueError(f'PrototypeRebalance: alpha must not be negative, got {alpha}')
        if not 0 <= momentum < 1:
            raise ValueError(f'PrototypeRebalance: momentum must be in [0, 1), got {momentum}')
        if coefficient not in ('constant', 'gap'):
            raise ValueError(
                f"PrototypeRebalance: coefficient must be 'constant' or 'gap', got {coefficient!r}"
            )
        self.alpha, self.coefficient, self.momentum = alpha, coefficient, momentum
        self.begin, self.end = begin, end

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """A prototype per modality and class."""
        self.modalities = tuple(sorted(channels))
        for m in self.modalities:
            self.register_buffer(f'prototypes_of_{m}', torch.zeros(num_classes, channels[m]))
        #: bool [M, C], which of them were ever measured
        self.register_buffer('known', torch.zeros(len(channels), num_classes, dtype=torch.bool))
        self.scores = UpdateMean(len(channels))

    @torch.no_grad()
    def set_prototypes(
        self, modality: str, means: Tensor, seen: Tensor, anew: bool = False
    ) -> None:
        """Take over new class means [C, D_m]; ``seen`` bool [C] are the classes that were there.

        With ``anew`` they replace the old ones, which otherwise keep a share of ``momentum``.
        """
        i = self.modalities.index(modality)
        old, seen = self.get_buffer(f'prototypes_of_{modality}'), seen.to(self.known.device)
        keep = ((0 if anew else self.momentum) * self.known[i].to(old))[:, None]
        mixed = keep * old + (1 - keep) * means.to(old)
        old.copy_(torch.where(seen[:, None], mixed, old))
        self.known[i] |= seen

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_pmr/<m>': scalar}``; empty before the first measurement."""
        epoch = state.progress.epoch
        if len(state.modalities) < 2 or not bool(self.known.any()):
            return {}
        if epoch < self.begin or (self.end is not None and epoch >= self.end):
            return {}
        logits = {
            m: self._logits(state.z[m], m, known)
            for m, known in zip(state.modalities, self.known, strict=True)
        }
        scores = self._scores(state, logits)
        if scores is None:
            return {}
        factors = self.alpha * rebalance_coefficients(scores.clamp_min(1e-12), self.coefficient)
        losses = {}
        for m, factor in zip(state.modalities, factors.to(state.logits.device), strict=True):
            ce = F.cross_entropy(logits[m], state.known_labels, reduction='none')
            # a class without a prototype has no distance
            ce = torch.where(torch.isfinite(ce), ce, 0.0)
            losses[f'loss_pmr/{m}'] = factor.to(ce) * masked_mean(ce, state.present_mask(m))
        return losses

    def _logits(self, z: Tensor, modality: str, known: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            logits = prototype_logits(z, self.get_buffer(f'prototypes_of_{modality}'))
        return logits.masked_fill(~known & known.any(), float('-inf'))

    def _scores(self, state: ForwardState, logits: Mapping[str, Tensor]) -> Tensor | None:
        labels = state.known_labels[:, None]
        rows = [logits[m].detach().softmax(dim=-1).gather(1, labels)[:, 0] for m in logits]
        values = torch.stack(rows, dim=1)
        return self.scores(values, state.update, state.present)
