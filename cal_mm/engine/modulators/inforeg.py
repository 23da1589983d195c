"""InfoReg: the dominant modality is held near where the epoch began while information flows in.

Source: Huang et al., "Adaptive Unimodal Regulation for Balanced Multimodal Information
Acquisition", CVPR 2025 (arXiv 2503.18595).
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cal_mm.registry import MODULATORS
from cal_mm.structures import TrainProgress

from .base import Modulator
from .ogm import OGM

__all__ = ['InfoReg', 'information_growth', 'regulation_strength']


def information_growth(traces: Sequence[float], window: int = 10) -> float:
    """Relative change of the Fisher trace, (T_now - T_before) / T_now; 1 before the first epoch.

    Args:
        traces: of every finished epoch.
        window: T_now sums the last ``window`` epochs, T_before as many up to the one before.
    """
    now, before = sum(traces[-window:]), sum(traces[-window - 1 : -1])
    return (now - before) / now if now > 0 else 1.0


def regulation_strength(scores: Tensor, beta: float, batch: float) -> float:
    """beta exp(tanh(batch (S_max - mean of the others))).

    Args:
        scores: S [M], mean probability of the true class.
        beta: >= 0.
        batch: the public code sums S over its batches of 64.
    """
    top = scores.max()
    others = (scores.sum() - top) / max(1, len(scores) - 1)
    return beta * math.exp(math.tanh(batch * float(top - others)))


@MODULATORS.register_module()
class InfoReg(Modulator):
    """The dominant modality's gradient gets strength (theta - theta at the start of the epoch).

    Dominant is the modality with the largest S_m, the mean probability of the true class under the
    unimodal logits. It is regulated while its :func:`information_growth` exceeds ``threshold``,
    with the :func:`regulation_strength`, unless it is frozen. The trace of an epoch sums over its
    updates, and over weights with two dimensions and more, the mean squared gradient of the weight.

    Where the epoch began is not in a checkpoint: a run that is resumed within an epoch takes the
    weights with which it goes on.

    Args:
        beta: >= 0.
        threshold: of the growth, in [0, 1].
        window: epochs, >= 1.
        batch: see :func:`regulation_strength`.
    """

    needs_contribution = False
    needs_loss_scale = True

    def __init__(
        self, beta: float = 0.95, threshold: float = 0.05, window: int = 10, batch: float = 64.0
    ) -> None:
        if beta < 0 or window < 1:
            raise ValueError(f'InfoReg: needs beta >= 0 and window >= 1, got {beta} and {window}')
        self.beta, self.threshold, self.window, self.batch = beta, threshold, window, batch
        self._scores: Tensor | None = None
        self._anchor: list[list[Tensor]] = []
        self._epoch = -1
        #: Fisher traces: of the finished epochs [E, M], and of the running one [M]
        self._traces: Tensor | None = None
        self._running: Tensor | None = None

    #: p_m(label) of the unimodal logits, as OGM has it
    statistics = OGM.statistics
    finish = OGM.finish

    def __call__(self, values: Tensor, progress: TrainProgress) -> Tensor:
        """S [M] -> 1 for every modality; :meth:`adjust` does the work."""
        self._scores = values
        return torch.ones_like(values)

    @torch.no_grad()
    def adjust(
        self,
        owned: Mapping[str, list[nn.Parameter]],
        factors: Tensor,
        progress: TrainProgress,
        seed: int,
    ) -> None:
        """Regulate the dominant modality, then book the Fisher traces."""
        params = list(owned.values())
        if self._epoch != progress.epoch:
            self._next_epoch(progress.epoch)
        if not self._anchor:
            self._running = None  # resumed within an epoch, which is trained from its start
            self._anchor = [[p.detach().clone() for p in group] for group in params]
        if self._scores is None or len(params) < 2 or not any(params):
            return
        seen = self._scores[~self._scores.isnan()]  # those that some sample of the update has
        top = int(self._scores.nan_to_num(nan=-1.0).argmax())
        if params[top] and len(seen) > 1 and self.growth(top) > self.threshold:
            strength = regulation_strength(seen, self.beta, self.batch)
            now = [p.detach() for p in params[top]]
            grads = [p.grad for p in params[top] if p.grad is not None]
            pull = list(torch._foreach_sub(now, self._anchor[top]))
            torch._foreach_mul_(pull, strength * self.loss_scale)
            torch._foreach_add_(grads, pull)
        device = next(p.device for group in params for p in group)
        traces = torch.stack([self._trace(p, device) for p in params]) / self.loss_scale**2
        # an overflow of mixed precision skips the update
        traces = torch.where(torch.isfinite(traces), traces, 0.0)
        self._running = traces if self._running is None else self._running.to(traces) + traces

    def growth(self, index: int) -> float:
        """:func:`information_growth` of one modality."""
        traces = [] if self._traces is None else self._traces[:, index].tolist()
        return information_growth(traces, self.window)

    def _next_epoch(self, epoch: int) -> None:
        if self._running is not None:
            row = self._running.double().cpu()[None]
            self._traces = row if self._traces is None else torch.cat([self._traces, row])
        self._running, self._epoch, self._anchor = None, epoch, []

    @staticmethod
    def _trace(params: list[nn.Parameter], device: torch.device) -> Tensor:
        weights = [p.grad for p in params if p.grad is not None and p.dim() > 1]
        if not weights:
            return torch.zeros((), dtype=torch.float64, device=device)
        norms = torch.stack(torch._foreach_norm(weights)).double()
        sizes = torch.tensor([w.numel() for w in weights], dtype=torch.float64)
        return (norms.square() / sizes.to(norms)).sum()

    def state(self) -> dict[str, Tensor]:
        """The Fisher traces."""
        found = {'epoch': torch.tensor(self._epoch)}
        if self._traces is not None:
            found['traces'] = self._traces.clone()
        if self._running is not None:
            found['running'] = self._running.clone()
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`state`."""
        self._epoch, self._anchor = int(state['epoch']), []
        traces, self._running = state.get('traces'), state.get('running')
        self._traces = None if traces is None else traces.cpu()
