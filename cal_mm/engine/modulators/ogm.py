"""OGM and OGM-GE: the dominant modality's gradient is damped.

Source: Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022
(arXiv 2203.15332).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cal_mm.models.state import ForwardState
from cal_mm.registry import MODULATORS
from cal_mm.structures import TrainProgress, epochs_of

from .base import Modulator, present_means, with_presence

__all__ = ['OGM', 'ogm_coefficients']

#: see :func:`_draws`
SPARE = 2**21


def ogm_coefficients(scores: Tensor, alpha: float) -> Tensor:
    """k_m = 1 - tanh(alpha * rho_m) where rho_m = S_m / min S exceeds 1, else 1.

    For two modalities that is the paper's rule: rho of the stronger one is S_strong / S_weak, and
    the weaker one keeps its gradient. For more the weakest is the reference (ours).

    Args:
        scores: S [M] > 0, mean (or sum) of the true class's probability; NaN for a modality that
            is left out of the comparison.
        alpha: strength, >= 0.

    Returns:
        k [M], in (0, 1]; 1 where S is NaN.
    """
    rho = scores / scores.nan_to_num(nan=torch.inf).min()
    k = 1 - torch.tanh(alpha * rho)
    # a factor of exactly 0 would end training of the modality
    return torch.where(rho > 1, k, torch.ones_like(k)).clamp_min(1e-6)


@MODULATORS.register_module()
class OGM(Modulator):
    """On-the-fly gradient modulation; with ``noise`` OGM-GE.

    S_m is the mean probability of the true class under the unimodal logits, over the whole update.

    Args:
        alpha: strength, >= 0.
        noise: generalisation enhancement: add N(0, std(g)) to the scaled gradients, where std(g)
            is that of each parameter's gradient before the scaling.
        begin: epochs before which nothing is modulated; a float in (0, 1) is a share of the run.
        end: epochs from which on nothing is modulated, a number or a share likewise; None: never.
        parameters: ``conv``: only the kernels of convolutions, as the public code does (all where a
            modality has none); ``all``.
    """

    needs_contribution = False

    def __init__(
        self,
        alpha: float = 0.8,
        noise: bool = True,
        begin: int | float = 0,
        end: int | float | None = None,
        parameters: str = 'conv',
    ) -> None:
        if alpha < 0:
            raise ValueError(f'OGM: alpha must not be negative, got {alpha}')
        if parameters not in ('all', 'conv'):
            raise ValueError(f"OGM: parameters must be 'all' or 'conv', got {parameters!r}")
        self.alpha, self.noise, self.begin, self.end = alpha, noise, begin, end
        self.parameters = parameters

    def statistics(self, state: ForwardState) -> Tensor:
        """p_m(label) and who has the modality, [B, 2 M]."""
        labels = state.known_labels[:, None]
        rows = [
            state.unimodal_logits(m).float().softmax(dim=-1).gather(1, labels)[:, 0]
            for m in state.modalities
        ]
        return with_presence(torch.stack(rows, dim=1), state.present)

    @property
    def only_scales(self) -> bool:
        """See ``Modulator``."""
        return self.parameters == 'all' and not self.noise

    def finish(self, values: Tensor) -> Tensor:
        """S [M], means over the samples that have the modality; NaN where none has it."""
        return present_means(values)

    def _active(self, progress: TrainProgress) -> bool:
        if progress.epoch < epochs_of(self.begin, progress.max_epochs):
            return False
        return self.end is None or progress.epoch < epochs_of(self.end, progress.max_epochs)

    def __call__(self, values: Tensor, progress: TrainProgress) -> Tensor:
        """S [M] -> k [M]."""
        if not self._active(progress):
            return torch.ones_like(values)
        return ogm_coefficients(values, self.alpha)

    def adjust(
        self,
        owned: Mapping[str, list[nn.Parameter]],
        factors: Tensor,
        progress: TrainProgress,
        seed: int,
    ) -> None:
        """Generalisation enhancement: noise as wide as the gradient was."""
        if not self.noise or not self._active(progress):
            return
        grads = [
            (p.grad, k)
            for params, k in zip(owned.values(), factors.tolist(), strict=True)
            for p in params
            if p.grad is not None and p.grad.numel() > 1
        ]
        if not grads:
            return
        for (grad, k), draw in zip(grads, _draws([g for g, _ in grads], seed), strict=True):
            grad.addcmul_(draw, _std(grad) / k)


def _draws(like: list[Tensor], seed: int) -> list[Tensor]:
    """Standard normal draws in the shapes of ``like``, independent within each tensor.

    Drawing takes most of the time that the method costs, so a large model draws a pool and each
    tensor reads a stretch of it that starts at random; up to ``SPARE`` numbers beside the largest
    tensor, every tensor has draws of its own.
    """
    sizes = [t.numel() for t in like]
    pool = like[0].new_empty(min(sum(sizes), max(sizes) + SPARE))
    pool.normal_(generator=torch.Generator(pool.device).manual_seed(seed))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    if len(pool) < sum(sizes):
        generator = torch.Generator().manual_seed(seed + 1)
        free = torch.tensor([len(pool) - n + 1 for n in sizes])
        starts = (torch.rand(len(sizes), generator=generator, dtype=torch.float64) * free).tolist()
    return [
        pool[int(s) : int(s) + n].view_as(t) for s, n, t in zip(starts, sizes, like, strict=True)
    ]


def _std(values: Tensor) -> Tensor:
    """Standard deviation from the norm and the mean, several times faster than ``Tensor.std``."""
    n = values.numel()
    square = values.norm().double().square() - n * values.mean().double().square()
    return (square.clamp_min(0) / (n - 1)).sqrt().to(values.dtype)
