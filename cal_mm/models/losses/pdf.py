"""PDF's loss: the predicted confidence is the probability of the true class."""

from torch import Tensor

from cal_mm.models.state import ForwardState
from cal_mm.registry import LOSSES

from .components import LossComponent, masked_mean

__all__ = ['TrueClassConfidence']


@LOSSES.register_module()
class TrueClassConfidence(LossComponent):
    """weight times the mean of abs(p_m - softmax(u_m)[label]): ``loss_confidence/<m>``.

    The target has no gradient: only what predicts p_m learns.

    Source: PDF, Cao et al., ICML 2024 (arXiv 2406.04802); the true class's probability as a target
    is ConfidNet's (Corbiere et al., NeurIPS 2019, arXiv 1910.04851). Needs a fusion that gives
    ``confidence`` (``PDFFusion``) and unimodal logits (``unimodal_head='fusion'``).

    Args:
        weight: >= 0.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f'TrueClassConfidence: weight must not be negative, got {weight}')
        self.weight = weight

    def forward(self, state: ForwardState) -> dict[str, Tensor]:
        """``{'loss_confidence/<m>': scalar}`` for every modality."""
        confidence = state.details.get('confidence')
        if confidence is None:
            raise ValueError(
                "TrueClassConfidence needs the fusion's confidences: use "
                'fusion=dict(type="PDFFusion")'
            )
        labels = state.known_labels[:, None]
        losses = {}
        for i, m in enumerate(state.modalities):
            probs = state.unimodal_logits(m).detach().to(confidence.dtype).softmax(dim=-1)
            error = (confidence[:, i] - probs.gather(1, labels)[:, 0]).abs()
            losses[f'loss_confidence/{m}'] = self.weight * masked_mean(error, state.present_mask(m))
        return losses
