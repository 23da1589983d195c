"""ARL: the encoders learn in the inverse ratio of the modalities' variances.

Source: Wei, Luo and Luo, "Improving Multimodal Learning via Imbalanced Learning", ICCV 2025
(arXiv 2507.10203).
"""

import torch
from torch import Tensor

from cal_mm.models.losses.alone import alone_logits
from cal_mm.models.state import ForwardState
from cal_mm.registry import MODULATORS
from cal_mm.structures import TrainProgress

from .base import Modulator, present_means, with_presence

__all__ = ['ARL', 'arl_coefficients']


def arl_coefficients(entropy: Tensor, probability: Tensor, temperature: float) -> Tensor:
    """[a_0, a_1] = softmax(T [q_0 / q_1, d_0 / d_1]) with q_m = 1 / H_m.

    q_0 / q_1 is how the model should depend on the two modalities, d_0 / d_1 how it does: the first
    modality learns faster where it is relied on too little.

    Args:
        entropy: H [2] >= 0, mean entropy of each modality's prediction, nats.
        probability: d [2] > 0, mean probability of the true class. NaN for a modality that no
            sample has: there is no ratio then.
        temperature: T >= 0.

    Returns:
        [2], sums to one; halves without a ratio.

    Raises:
        ValueError: not two modalities.
    """
    if len(entropy) != 2:
        raise ValueError(
            f'ARL compares one pair of modalities, got {len(entropy)}: its ratios q_0 / q_1 and '
            f'd_0 / d_1 are not defined for more'
        )
    q = 1 / entropy.clamp_min(1e-6)
    d = probability.clamp_min(1e-12)
    a = (temperature * torch.stack([q[0] / q[1], d[0] / d[1]])).softmax(dim=0)
    return torch.where(a.isnan(), 0.5, a)


@MODULATORS.register_module()
class ARL(Modulator):
    """k_m = 1 + a_m, see :func:`arl_coefficients`; for two modalities.

    H_m and d_m are means over the whole update of what the fused head says of each modality alone.

    Args:
        temperature: T >= 0.
        begin: epochs before which k = 1.
    """

    needs_contribution = False

    def __init__(self, temperature: float = 8.0, begin: int = 0) -> None:
        if temperature < 0:
            raise ValueError(f'ARL: temperature must not be negative, got {temperature}')
        self.temperature, self.begin = temperature, begin

    def statistics(self, state: ForwardState) -> Tensor:
        """Entropy and true-class probability of each modality, and who has it: [B, 4 M]."""
        p = alone_logits(state).softmax(dim=-1).transpose(0, 1)  # [B, M, C]
        true = p[torch.arange(len(p)), :, state.known_labels]
        values = torch.cat([torch.special.entr(p).sum(dim=-1), true], dim=1)
        return with_presence(values, state.present)

    def finish(self, values: Tensor) -> Tensor:
        """Means over the samples that have the modality: [2 M]."""
        return present_means(values)

    def __call__(self, values: Tensor, progress: TrainProgress) -> Tensor:
        """H and d [2 M] -> k [M]."""
        half = len(values) // 2
        if progress.epoch < self.begin:
            return torch.ones(half, dtype=values.dtype, device=values.device)
        return 1 + arl_coefficients(values[:half], values[half:], self.temperature)
