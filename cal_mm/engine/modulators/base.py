"""The interface of a modulator."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cal_mm.models.state import ForwardState
from cal_mm.structures import TrainProgress

__all__ = ['Modulator', 'present_means', 'with_presence']


def with_presence(values: Tensor, present: Tensor | None) -> Tensor:
    """Statistics beside the number of samples they count for: [B, J M] -> [B, 2 J M].

    Args:
        values: J numbers for each of the M modalities, one after the other.
        present: bool [B, M], or None where nothing is missing.
    """
    seen = torch.ones_like(values)
    if present is not None:
        seen = present.repeat(1, values.shape[1] // present.shape[1]).to(values)
    return torch.cat([torch.where(seen > 0, values, 0.0), seen], dim=1)


def present_means(values: Tensor) -> Tensor:
    """Means [2 K] of what :func:`with_presence` gave to means over the samples that count [K].

    NaN where none did: a modality that the whole update lacks has no score, least of all 0.
    """
    total, count = values.chunk(2)
    return total / count


class Modulator:
    """Turns statistics of the modalities into the factor k_m of each one's gradient.

    By default the statistics are the contribution W [M] of the model's tracker. A method with
    statistics of its own writes :meth:`statistics`: the values [B, K] of a training batch's
    samples, whose mean over all samples of the update (every micro-batch, every rank) is then what
    ``__call__`` gets. So k does not depend on how a batch is split.

    Attributes:
        needs_contribution: ``__call__`` takes W.
        parameters: which of a modality's parameters k scales: ``all``, or ``conv`` (weights of
            convolutions; all of them where a modality has none).
        needs_loss_scale: ``adjust`` reads :attr:`loss_scale`.
        loss_scale: what mixed precision has multiplied the gradients by; set before ``adjust``.
    """

    needs_contribution = True
    parameters = 'all'
    needs_loss_scale = False
    loss_scale = 1.0

    @property
    def only_scales(self) -> bool:
        """Whether it does nothing to gradients but multiply those of a modality by its k."""
        return self.parameters == 'all' and type(self).adjust is Modulator.adjust

    def statistics(self, state: ForwardState) -> Tensor | None:
        """[B, K] of a training batch, or None to book nothing; called without gradient.

        Args:
            state: the forward pass; ``state.unimodal_logits(m)`` where the model has them.
        """
        return None

    def finish(self, values: Tensor) -> Tensor:
        """The mean [K] of :meth:`statistics` to what ``__call__`` takes."""
        return values

    def __call__(self, values: Tensor, progress: TrainProgress) -> Tensor:
        """k [M] > 0.

        Args:
            values: W [M], or what :meth:`finish` made of the mean of :meth:`statistics`, float64.
            progress: how far training has come.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement __call__')

    def adjust(
        self,
        owned: Mapping[str, list[nn.Parameter]],
        factors: Tensor,
        progress: TrainProgress,
        seed: int,
    ) -> None:
        """Change gradients beyond the factor, after it was applied (in place, on ``p.grad``).

        Args:
            owned: the scaled parameters with a gradient, by modality; with mixed precision their
                gradients are still scaled by the loss scale.
            factors: k [M].
            progress: how far training has come.
            seed: of the run; every rank must change its gradients alike.
        """

    def state(self) -> dict[str, Tensor]:
        """What must survive in a checkpoint (running means)."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
