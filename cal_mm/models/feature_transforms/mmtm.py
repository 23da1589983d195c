"""A multimodal transfer module on feature vectors, which can be told to leave a modality alone.

Source of the module: Joze et al., "MMTM: Multimodal Transfer Module for CNN Fusion", CVPR 2020
(arXiv 1911.08670); of the rebalancing: Wu et al., "Characterizing and Overcoming the Greedy Nature
of Learning in Multi-modal Deep Neural Networks", ICML 2022 (arXiv 2202.05306).
"""

from collections.abc import Mapping

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from cal_mm.registry import FEATURE_TRANSFORMS

from .base import FeatureContext, FeatureTransform

__all__ = ['MMTM']


@FEATURE_TRANSFORMS.register_module()
class MMTM(FeatureTransform):
    """z_m <- z_m sigmoid(E_m relu(S [z_1, ..., z_M])): what crosses between modalities, the bypass.

    While :attr:`caring` is the index of a modality, that one's gates in training are their running
    mean: it learns without the others' help.

    Args:
        ratio: the squeezed width is 2 sum D_m / ratio.
    """

    caring: Tensor
    updates: Tensor

    def __init__(self, ratio: float = 4.0) -> None:
        super().__init__()
        if ratio <= 0:
            raise ValueError(f'MMTM: ratio must be > 0, got {ratio}')
        self.ratio = ratio

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """The squeezing map S, one exciting map E_m per modality, and the mean gates."""
        total = sum(channels.values())
        hidden = max(1, int(2 * total / self.ratio))
        self.squeeze = nn.Linear(total, hidden)
        self.excite = nn.ModuleDict({m: nn.Linear(hidden, channels[m]) for m in sorted(channels)})
        #: index of the modality that is left alone; -1: none
        self.register_buffer('caring', torch.tensor(-1))
        self.register_buffer('updates', torch.tensor(0))
        for m in sorted(channels):
            self.register_buffer(f'gates_of_{m}', torch.zeros(channels[m]))
        self._booked: dict[str, Tensor] = {}
        self._count = 0

    def bypass_parameters(self, modality: str) -> list[nn.Parameter]:
        """What takes part in the gates of a modality: S, which all share, and E_m."""
        return [*self.squeeze.parameters(), *self.excite[modality].parameters()]

    def forward(self, z: dict[str, Tensor], context: FeatureContext) -> dict[str, Tensor]:
        """See the class; an absent modality counts as zeros."""
        parts = []
        for i, m in enumerate(context.modalities):
            there = context.present[:, i, None] if context.present is not None else None
            parts.append(z[m] if there is None else torch.where(there, z[m], 0.0))
        hidden = self.squeeze(torch.cat(parts, dim=1)).relu()
        gates = {m: self.excite[m](hidden).sigmoid() for m in context.modalities}
        if context.training:
            self._book(gates)
            caring = int(self.caring)
            if caring >= 0 and int(self.updates) > 0:
                m = context.modalities[caring]
                # 0 times the live ones: every parameter keeps a gradient, as DDP wants it
                gates[m] = self.get_buffer(f'gates_of_{m}').to(gates[m]) + 0 * gates[m]
        return {m: z[m] * gates[m] for m in context.modalities}

    @torch.no_grad()
    def _book(self, gates: Mapping[str, Tensor]) -> None:
        for m, gate in gates.items():
            total = gate.detach().double().sum(dim=0)
            self._booked[m] = self._booked[m] + total if m in self._booked else total
        self._count += len(next(iter(gates.values())))

    @torch.no_grad()
    def close_update(self) -> None:
        """Take the update's gates, of every micro-batch and rank, into the running means."""
        if not self._booked:
            return
        names = sorted(self._booked)
        first = self._booked[names[0]]
        packed = torch.cat([*(self._booked[m] for m in names), first.new_tensor([self._count])])
        all_reduce(packed)
        self.updates += 1
        start = 0
        for m in names:
            buffer = self.get_buffer(f'gates_of_{m}')
            mean = packed[start : start + len(buffer)] / packed[-1]
            buffer += (mean.to(buffer) - buffer) / self.updates
            start += len(buffer)
        self._booked, self._count = {}, 0
