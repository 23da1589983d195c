"""Loss components: each reads the forward state and returns named scalars.

The total loss is the sum of the keys that contain "loss". Sums run over the batch and are divided
by the batch size, also where modalities are missing, so that a batch gives the same update however
it is split.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

__all__ = ['FusedCrossEntropy', 'LossComponent', 'UnimodalCrossEntropy']


class LossComponent(nn.Module):
    """Base of the loss components.

    Attributes:
        needs_noise: the bottlenecks must sample (their KL is part of the loss).
        detaches_heads: the unimodal heads learn on detached features, as probes.
    """

    needs_noise = False
    detaches_heads = False

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """Build what depends on the widths D_m by modality and on the number of classes C.

        Called once, when the model is built; parameters and buffers are the model's.
        """

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """Named scalars; those whose name contains "loss" are summed into the total."""
        raise NotImplementedError


def masked_mean(values: Tensor, present: Tensor | None) -> Tensor:
    """Sum of the present samples' values over the batch size: [B] -> scalar."""
    return values.mean() if present is None else (values * present).mean()


@LOSSES.register_module()
class FusedCrossEntropy(LossComponent):
    """Cross-entropy of the fused logits: ``loss_fused``, nats.

    Args:
        weight: factor, >= 0.
        label_smoothing: in [0, 1).
    """

    def __init__(self, weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.weight = weight
        self.label_smoothing = label_smoothing

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_fused': scalar}``."""
        loss = F.cross_entropy(
            state.logits.float(), state.known_targets, label_smoothing=self.label_smoothing
        )
        return {'loss_fused': self.weight * loss}


@LOSSES.register_module()
class UnimodalCrossEntropy(LossComponent):
    """eta times the cross-entropy of every unimodal head: ``loss_unimodal/<m>``, nats.

    Args:
        weight: eta, >= 0. With 0 the heads learn on detached features, as probes that leave the
            encoders alone.
        label_smoothing: in [0, 1).
    """

    def __init__(self, weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f'UnimodalCrossEntropy: weight must not be negative, got {weight}')
        self.weight = weight
        self.label_smoothing = label_smoothing
        self.detaches_heads = weight == 0

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_unimodal/<m>': scalar}`` for every modality."""
        losses = {}
        for m in state.modalities:
            logits = state.unimodal_logits(m, detach=self.detaches_heads).float()
            ce = F.cross_entropy(
                logits, state.known_targets, label_smoothing=self.label_smoothing, reduction='none'
            )
            factor = 1.0 if self.detaches_heads else self.weight
            losses[f'loss_unimodal/{m}'] = factor * masked_mean(ce, state.present_mask(m))
        return losses
