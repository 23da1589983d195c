"""AUG's classifiers: late fusion of heads that grow by blocks.

Source: AUG, Jiang et al., "Rethinking Multimodal Learning from the Perspective of Mitigating
Classification Ability Disproportion", NeurIPS 2025; our reading.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cal_mm.registry import FUSIONS

from .base import BaseFusion

__all__ = ['BoostedFusion']


@FUSIONS.register_module()
class BoostedFusion(BaseFusion):
    """u_m = sum of the modality's active blocks on z_m; y = mean of u_m over what is there.

    A modality starts with one block, Linear(D_m, C). The others, Linear - ReLU - Linear with a last
    layer of zeros, are there from the start and take no part until :meth:`grow`: the model's shape
    never changes, so a resumed run goes on exactly. A new block leaves the prediction as it is.

    Args:
        in_channels, num_classes, absent, momentum: see :class:`BaseFusion`.
        hidden_channels: width of a block.
        blocks: K >= 1, how many a modality can have.
    """

    active: Tensor

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int,
        hidden_channels: int = 64,
        blocks: int = 10,
        absent: str = 'zeros',
        momentum: float = 0.1,
    ) -> None:
        super().__init__(in_channels, num_classes, absent, momentum)
        if blocks < 1:
            raise ValueError(f'BoostedFusion: blocks must be at least 1, got {blocks}')
        self.blocks = nn.ModuleDict()
        for m, width in self.in_channels.items():
            grown: list[nn.Module] = [nn.Linear(width, num_classes)]
            for _ in range(blocks - 1):
                last = nn.Linear(hidden_channels, num_classes)
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
                grown.append(nn.Sequential(nn.Linear(width, hidden_channels), nn.ReLU(), last))
            self.blocks[m] = nn.ModuleList(grown)
        self.register_buffer('active', torch.ones(len(self.modalities), dtype=torch.int64))

    def grow(self, modality: str) -> bool:
        """Let the modality's next block take part; False where it has none left."""
        i = self.modalities.index(modality)
        blocks: nn.ModuleList = self.blocks[modality]  # type: ignore[assignment]
        if int(self.active[i]) >= len(blocks):
            return False
        self.active[i] += 1
        return True

    def _outputs(self, modality: str, z: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of all active blocks but the newest, and the newest's: [B, C] each."""
        blocks: nn.ModuleList = self.blocks[modality]  # type: ignore[assignment]
        count = int(self.active[self.modalities.index(modality)])
        found = [block(z) for block in blocks[:count]]
        # idle blocks get a gradient of 0, for DDP waits for every parameter's
        idle = [p.sum() for block in blocks[count:] for p in block.parameters()]
        rest = torch.stack(found[:-1]).sum(dim=0) if count > 1 else torch.zeros_like(found[0])
        if idle and self.training:
            rest = rest + 0 * torch.stack(idle).sum()
        return rest, found[-1]

    def fuse(self, z: dict[str, Tensor], present: Tensor) -> Tensor:
        """Mean of the present modalities' logits, [B, C]."""
        return self.fuse_with_details(z, present)[0]

    def fuse_with_details(
        self, z: dict[str, Tensor], present: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Also ``boost_rest/<m>`` and ``boost_last/<m>``, [B, C]."""
        details, total = {}, torch.zeros(())
        for i, m in enumerate(self.modalities):
            rest, last = self._outputs(m, z[m])
            details[f'boost_rest/{m}'], details[f'boost_last/{m}'] = rest, last
            share = present[:, i : i + 1].to(last)
            total = total.to(last) + share * (rest + last)
        return total / present.sum(dim=1, keepdim=True).clamp_min(1), details

    def unimodal_logits(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """u_m [B, C] of each given modality."""
        self._check(z)
        return {m: torch.stack(self._outputs(m, v)).sum(dim=0) for m, v in z.items()}
