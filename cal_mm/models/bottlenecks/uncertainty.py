"""How usual a bottleneck's posterior q(z | h) is, compared with clean data.

Two numbers describe a posterior: its KL to the prior and its entropy. Source: ours; that the rate
of a variational bottleneck tells unusual inputs is Alemi et al. 2018 (arXiv 1807.00906).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ['BottleneckUncertainty', 'posterior_numbers']

#: entropy of a standard normal number, nats
_UNIT_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


def posterior_numbers(
    bottlenecks: Mapping[str, nn.Module], features: Mapping[str, Tensor], kl: Mapping[str, Tensor]
) -> Tensor:
    """KL and entropy of every posterior, in nats: [B, M, 2], float32.

    Args:
        bottlenecks: by modality; one without a method ``sigma`` has the entropy 0.
        features: encoder outputs {m: [B, H_m]}.
        kl: {m: [B]}.
    """
    rows = []
    for m in sorted(bottlenecks):
        sigma = getattr(bottlenecks[m], 'sigma', None)
        if sigma is None:
            entropy = torch.zeros_like(kl[m])
        else:
            spread = sigma(features[m])
            entropy = spread.float().log().sum(dim=-1) + spread.shape[-1] * _UNIT_ENTROPY
        rows.append(torch.stack([kl[m].float(), entropy.float()], dim=-1))
    return torch.stack(rows, dim=1)


class BottleneckUncertainty(nn.Module):
    """Mean and spread of :func:`posterior_numbers` on clean validation data; in the checkpoint.

    Args:
        num_modalities: M.
    """

    centre: Tensor
    spread: Tensor
    fitted: Tensor

    def __init__(self, num_modalities: int) -> None:
        super().__init__()
        self.register_buffer('centre', torch.zeros(num_modalities, 2))
        self.register_buffer('spread', torch.ones(num_modalities, 2))
        self.register_buffer('fitted', torch.tensor(False))

    @torch.no_grad()
    def fit(self, numbers: Tensor, present: Tensor | None = None) -> None:
        """Fit on clean samples that the encoders were not trained on.

        Args:
            numbers: [N, M, 2].
            present: bool [N, M]; None: nothing is missing.

        Raises:
            ValueError: a modality is there in fewer than 8 samples.
        """
        if present is None:
            present = torch.ones(numbers.shape[:2], dtype=torch.bool, device=numbers.device)
        for i in range(numbers.shape[1]):
            rows = numbers[present[:, i], i].double()
            if len(rows) < 8:
                raise ValueError(
                    f'uncertainty needs at least 8 samples of every modality, got {len(rows)}'
                )
            mean = rows.mean(dim=0)
            # a number that does not vary must not turn rounding into many standard deviations
            least = 1e-6 + 1e-3 * mean.abs()
            self.centre[i] = mean.to(self.centre)
            self.spread[i] = rows.std(dim=0).clamp_min(least).to(self.spread)
        self.fitted.fill_(True)

    def forward(self, numbers: Tensor) -> Tensor:
        """Standardised numbers [B, M, 2]; zeros before ``fit``."""
        if not self.fitted:
            return torch.zeros_like(numbers)
        return (numbers - self.centre) / self.spread
