"""The interface of a feature transform."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from cal_mm.models.noise import SampleDraws
from cal_mm.structures import TrainProgress

__all__ = ['FeatureContext', 'FeatureTransform']


@dataclass(frozen=True)
class FeatureContext:
    """What a feature transform may look at.

    Attributes:
        modalities: names in their sorted order; M of them.
        num_classes: C.
        training: in a training step; else the transform must not draw.
        progress: how far training has come.
        labels: int64 [B], or None.
        present: bool [B, M], or None where nothing is missing.
        draws: random numbers that belong to the samples; None in evaluation.
        head: ``(modality, z) -> [B, C]``, the unimodal logits; None where the model has none.
        posterior: ``modality -> (mean, sigma)``, [B, D_m] each, of q(z_m | h_m); an error where the
            bottleneck has no spread.
    """

    modalities: tuple[str, ...]
    num_classes: int
    training: bool
    progress: TrainProgress
    labels: Tensor | None = None
    present: Tensor | None = None
    draws: SampleDraws | None = None
    head: Callable[[str, Tensor], Tensor] | None = None
    posterior: Callable[[str], tuple[Tensor, Tensor]] | None = None

    def unimodal_logits(self, modality: str, z: Tensor) -> Tensor:
        """u_m [B, C] of ``z``.

        Raises:
            ValueError: the model has no unimodal logits.
        """
        if self.head is None:
            raise ValueError(
                'a feature transform needs unimodal logits: give the model unimodal heads '
                "(model.unimodal_head=dict(type='LinearHead')), or the fusion's own view "
                "(model.unimodal_head='fusion')"
            )
        return self.head(modality, z)


class FeatureTransform(nn.Module):
    """Base of the feature transforms: ``forward(z, context) -> z``.

    Parameters and buffers are the model's. :meth:`setup` is called once the widths are known.
    """

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """Build what depends on the widths D_m by modality and on the number of classes C."""

    def forward(self, z: dict[str, Tensor], context: FeatureContext) -> dict[str, Tensor]:
        """{m: [B, D_m]} to the same shapes; what is not changed is handed on as it is."""
        raise NotImplementedError(f'{type(self).__name__} must implement forward(z, context)')
