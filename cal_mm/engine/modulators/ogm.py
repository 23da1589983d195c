"""OGM and OGM-GE: the dominant modality's gradient is damped.

Source: Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022
(arXiv 2203.15332).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cal_mm.models.state import ForwardState
from cal_mm.registry import MODULATORS
from cal_mm.structures import TrainProgress

from .base import Modulator, present_means, with_presence

__all__ = ['OGM', 'ogm_coefficients']


def ogm_coefficients(scores: Tensor, alpha: float) -> Tensor:
    """k_m = 1 - tanh(alpha * rho_m) where rho_m = S_m / min S exceeds 1, else 1.

    For two modalities that is the paper's rule: rho of the stronger one is S_strong / S_weak, and
    the weaker one keeps its gradient. For more the weakest is the reference (ours).

    Args:
        scores: S [M] > 0, mean (or sum) of the true class's probability.
        alpha: strength, >= 0.

    Returns:
        k [M], in (0, 1].
    """
    rho = scores / scores.min()
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
        begin: epochs before which nothing is modulated.
        end: epochs from which on nothing is modulated; None: never.
        parameters: ``conv``: only the kernels of convolutions, as the public code does (all where a
            modality has none); ``all``.
    """

    needs_contribution = False

    def __init__(
        self,
        alpha: float = 0.8,
        noise: bool = True,
        begin: int = 0,
        end: int | None = None,
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

    def finish(self, values: Tensor) -> Tensor:
        """S [M], means over the samples that have the modality."""
        return present_means(values)

    def _active(self, progress: TrainProgress) -> bool:
        return self.begin <= progress.epoch and (self.end is None or progress.epoch < self.end)

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
        # Drawn where the gradient is, so that nothing is copied, and into one buffer: fresh memory
        # for every tensor takes as long as the rest.
        like = grads[0][0]
        generator = torch.Generator(like.device).manual_seed(seed)
        buffer = like.new_empty(max(g.numel() for g, _ in grads))
        for grad, k in grads:
            draw = buffer[: grad.numel()].normal_(generator=generator).view_as(grad)
            grad.addcmul_(draw, _std(grad) / k)


def _std(values: Tensor) -> Tensor:
    """Standard deviation from the norm and the mean, several times faster than ``Tensor.std``."""
    n = values.numel()
    square = values.norm().double().square() - n * values.mean().double().square()
    return (square.clamp_min(0) / (n - 1)).sqrt().to(values.dtype)
