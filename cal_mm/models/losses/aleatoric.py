"""EAU's losses: two draws of one sample agree, posteriors stay near the prior and each other.

Source: Gao et al., "Embracing Unimodal Aleatoric Uncertainty for Robust Multimodal Fusion",
CVPR 2024.
"""

from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F

from cal_mm.models.bottlenecks import gaussian_kl
from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = ['AleatoricLoss', 'info_nce']


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of two views with negatives from both: [N, D], [N, D] -> [N], nats.

    For a row: -log of e(first, second) over the sum of e(first, every other first) and
    e(first, every second), e = exp(cosine / temperature); mean of both directions.
    """
    a, b = F.normalize(first, dim=-1), F.normalize(second, dim=-1)

    def one_way(x: Tensor, y: Tensor) -> Tensor:
        own = (x @ x.T) / temperature
        cross = (x @ y.T) / temperature
        eye = torch.eye(len(x), dtype=torch.bool, device=x.device)
        everything = torch.cat([cross, own.masked_fill(eye, float('-inf'))], dim=1)
        return everything.logsumexp(dim=1) - cross.diagonal()

    return 0.5 * (one_way(a, b) + one_way(b, a))


@LOSSES.register_module()
class AleatoricLoss(LossComponent):
    """``loss_eau/<m>`` = contrast * InfoNCE(two draws of z_m) + kl * KL(q_m || N(0, I)), and
    ``loss_eau_cross`` = cross * mean over ordered pairs of KL(q_m || q_n), nats.

    Args:
        contrast, kl, cross: weights, >= 0.
        temperature: of the InfoNCE, > 0.

    A sample counts for the modalities (the pairs) that it has.
    """

    def __init__(
        self,
        contrast: float = 1e-3,
        kl: float = 1e-3,
        cross: float = 1e-5,
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        if min(contrast, kl, cross) < 0 or temperature <= 0:
            raise ValueError(
                f'AleatoricLoss: weights must not be negative and the temperature positive, got '
                f'contrast={contrast}, kl={kl}, cross={cross}, temperature={temperature}'
            )
        self.contrast, self.kl, self.cross = contrast, kl, cross
        self.temperature = temperature

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """See the class."""
        mu, sigma = {}, {}
        for m in state.modalities:
            mu[m], sigma[m] = state.gaussian(m)
        losses = {}
        for m in state.modalities:
            there = state.present_mask(m)
            loss = self.kl * masked_mean(state.kl[m], there)
            if self.contrast and state.draws is not None:
                loss = loss + self.contrast * self._agreement(state, m, mu[m], sigma[m])
            losses[f'loss_eau/{m}'] = loss
        if self.cross and len(state.modalities) > 1:
            losses['loss_eau_cross'] = self.cross * self._distance(state, mu, sigma)
        return losses

    def _agreement(self, state: ForwardState, m: str, mu: Tensor, sigma: Tensor) -> Tensor:
        draws, there = state.draws, state.present_mask(m)
        if draws is None:
            return mu.sum() * 0
        views = [mu + sigma * draws.normal(f'eau{i}/{m}', mu.shape[1]) for i in range(2)]
        if there is not None:
            views = [v[there] for v in views]
        # over B as everywhere, also where the modality is missing
        return info_nce(views[0], views[1], self.temperature).sum() / state.batch_size

    @staticmethod
    def _distance(state: ForwardState, mu: dict[str, Tensor], sigma: dict[str, Tensor]) -> Tensor:
        terms = []
        for m, n in permutations(state.modalities, 2):
            kl = gaussian_kl(mu[m], sigma[m], mu[n], sigma[n])
            here, there = state.present_mask(m), state.present_mask(n)
            both = None if here is None or there is None else here & there
            terms.append(masked_mean(kl, both))
        return torch.stack(terms).mean()
