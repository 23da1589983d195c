"""ReconBoost: one modality learns at a time, on what the others leave to it.

Source: Hua et al., "ReconBoost: Boosting Can Achieve Modality Reconcilement", ICML 2024
(arXiv 2405.09321).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = ['ReconBoostLoss', 'boosting_loss', 'boosting_phase']


def boosting_phase(epoch: int, modalities: int, stage: int, correct: int) -> tuple[int, int | None]:
    """Where in the alternation an epoch is.

    A round trains one modality for ``stage`` epochs, then all for ``correct`` epochs; the
    modalities take turns.

    Returns:
        ``(round, index of the modality)``, the index None while all are trained.
    """
    turn, inside = divmod(epoch, stage + correct)
    return turn, turn % modalities if inside < stage else None


def boosting_loss(
    own: Tensor, rest: Tensor | None, labels: Tensor, weights: tuple[float, float]
) -> Tensor:
    """-(w_1 - w_2 p_rest(label)) log p_own(label) / C, per sample: [B].

    Args:
        own: logits [B, C] of the modality that learns.
        rest: summed logits [B, C] of the others, without gradient; None: there are none yet, and
            p_rest is 1 as in the public code.
        labels: int64 [B].
        weights: w_1, w_2.
    """
    share = torch.ones_like(own[:, 0])
    if rest is not None:
        share = rest.detach().softmax(dim=-1).gather(1, labels[:, None])[:, 0]
    ce = F.cross_entropy(own, labels, reduction='none')
    return (weights[0] - weights[1] * share) * ce / own.shape[1]


@LOSSES.register_module()
class ReconBoostLoss(LossComponent):
    """``loss_boost/<m>`` of the one modality whose turn it is, or ``loss_boost/all``, nats.

    In its turn a modality minimises :func:`boosting_loss` against the sum of those that have had
    theirs. After each turn the cross-entropy of that sum trains all of them together. Use a fusion
    that is a sum (``SumFusion``), ``unimodal_head='fusion'`` and ``StagedOptimWrapper``.

    Args:
        stage_epochs: length of a turn, >= 1.
        correct_epochs: epochs of common training after it, >= 0.
        weights: w_1, w_2.
        align: weight >= 0 of the mean squared distance between the predictions of the modality and
            of the one before it.
    """

    def __init__(
        self,
        stage_epochs: int = 4,
        correct_epochs: int = 4,
        weights: tuple[float, float] = (5.0, 1.0),
        align: float = 0.0,
    ) -> None:
        super().__init__()
        if stage_epochs < 1 or correct_epochs < 0 or align < 0:
            raise ValueError(
                f'ReconBoostLoss: needs stage_epochs >= 1, correct_epochs >= 0 and align >= 0, '
                f'got {stage_epochs}, {correct_epochs} and {align}'
            )
        self.stage_epochs, self.correct_epochs = stage_epochs, correct_epochs
        self.weights, self.align = (float(weights[0]), float(weights[1])), align

    def phase(self, epoch: int, modalities: int) -> tuple[int, int | None]:
        """See :func:`boosting_phase`."""
        return boosting_phase(epoch, modalities, self.stage_epochs, self.correct_epochs)

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """One loss, by the epoch."""
        names, labels = state.modalities, state.known_labels
        turn, index = self.phase(state.progress.epoch, len(names))
        learned = names[: turn + 1]
        logits = {m: self._logits(state, m) for m in learned}
        if index is None:
            total = torch.stack(list(logits.values())).sum(dim=0)
            return {'loss_boost/all': F.cross_entropy(total, labels)}
        m = names[index]
        others = [logits[n].detach() for n in learned if n != m]
        rest = torch.stack(others).sum(dim=0) if others else None
        loss = boosting_loss(logits[m], rest, labels, self.weights)
        if self.align and rest is not None:
            before = logits[names[index - 1] if names[index - 1] in logits else learned[0]]
            gap = logits[m].softmax(dim=-1) - before.detach().softmax(dim=-1)
            loss = loss + self.align * gap.square().mean(dim=1)
        return {f'loss_boost/{m}': masked_mean(loss, state.present_mask(m))}

    @staticmethod
    def _logits(state: ForwardState, modality: str) -> Tensor:
        logits = state.unimodal_logits(modality)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        present = state.present_mask(modality)
        return logits if present is None else torch.where(present[:, None], logits, 0.0)
