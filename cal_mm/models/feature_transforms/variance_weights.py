"""EAU's weighting: each dimension trusts the modality whose counterpart is more uncertain.

Source: Gao et al., "Embracing Unimodal Aleatoric Uncertainty for Robust Multimodal Fusion",
CVPR 2024.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cal_mm.registry import FEATURE_TRANSFORMS

from .base import FeatureContext, FeatureTransform

__all__ = ['VarianceWeights', 'variance_weights']


def variance_weights(variances: Tensor, present: Tensor | None = None) -> Tensor:
    """w_m[d] = softmax over the modalities of the mean variance of the others.

    For two modalities w_a = exp(var_b) / (exp(var_a) + exp(var_b)): the one with the smaller
    variance weighs more.

    Args:
        variances: [M, B, D], >= 0.
        present: bool [B, M]; an absent modality has no say and the weight 0. A sample with
            nothing has weights 0.

    Returns:
        [M, B, D]; over the modalities that are there the sum is 1.
    """
    there = torch.ones_like(variances[..., 0], dtype=torch.bool)
    if present is not None:
        there = present.T.to(variances.device)
    mask = there[..., None].to(variances)
    known = variances * mask
    others = (known.sum(dim=0) - known) / (mask.sum(dim=0) - mask).clamp_min(1)
    weights = others.masked_fill(mask == 0, float('-inf')).softmax(dim=0)
    return torch.where(mask > 0, weights, torch.zeros_like(weights))


@FEATURE_TRANSFORMS.register_module()
class VarianceWeights(FeatureTransform):
    """z_m <- w_m z_m with :func:`variance_weights`, in training and in evaluation.

    Needs bottlenecks with a spread, of one width. Source: see the module.
    """

    def setup(self, channels: Mapping[str, int], num_classes: int) -> None:
        """Check the widths.

        Raises:
            ValueError: the modalities' widths differ.
        """
        if len(set(channels.values())) > 1:
            raise ValueError(
                f'VarianceWeights compares dimension by dimension, so all bottlenecks need one '
                f'width (bottleneck.out_channels), got {dict(channels)}'
            )

    def forward(self, z: dict[str, Tensor], context: FeatureContext) -> dict[str, Tensor]:
        """{m: [B, D]} -> {m: [B, D]}."""
        if context.posterior is None:
            raise ValueError('VarianceWeights needs the spread of z: VariationalBottleneck')
        variances = torch.stack([context.posterior(m)[1].square() for m in context.modalities])
        weights = variance_weights(variances, context.present)
        return {m: z[m] * w.to(z[m]) for m, w in zip(context.modalities, weights, strict=True)}
