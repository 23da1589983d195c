"""Attacks on the model, registered: FGM, FGSM and PGD within a budget per modality.

Each attack is one class per kind of modality, so that its severities have the kind's physical unit
(``adversarial_budgets``). Where a condition attacks several modalities, their perturbations rise
together on the gradient at one point: a joint attack with one budget per modality. The gradient
goes through the whole front end, so that what is bounded is the physical value.
"""

from cal_mm.registry import CORRUPTIONS

from .adversarial_attack import FGM, FGSM, PGD, PGDL2
from .adversarial_budgets import (
    DepthBudget,
    FeatureBudget,
    ImageBudget,
    TextBudget,
    WaveformBudget,
)

__all__ = [
    'DepthFGM',
    'DepthFGSM',
    'DepthPGD',
    'DepthPGDL2',
    'FeatureFGM',
    'FeatureFGSM',
    'FeaturePGD',
    'FeaturePGDL2',
    'ImageFGM',
    'ImageFGSM',
    'ImagePGD',
    'ImagePGDL2',
    'TextFGM',
    'TextFGSM',
    'TextPGD',
    'TextPGDL2',
    'WaveformFGM',
    'WaveformFGSM',
    'WaveformPGD',
    'WaveformPGDL2',
]


@CORRUPTIONS.register_module()
class DepthFGM(FGM, DepthBudget):
    """FGM (one step, L2) on depth maps."""


@CORRUPTIONS.register_module()
class DepthFGSM(FGSM, DepthBudget):
    """FGSM (one step, L-inf) on depth maps."""


@CORRUPTIONS.register_module()
class DepthPGD(PGD, DepthBudget):
    """PGD (L-inf) on depth maps."""


@CORRUPTIONS.register_module()
class DepthPGDL2(PGDL2, DepthBudget):
    """PGD (L2) on depth maps."""


@CORRUPTIONS.register_module()
class FeatureFGM(FGM, FeatureBudget):
    """FGM (one step, L2) on features."""


@CORRUPTIONS.register_module()
class FeatureFGSM(FGSM, FeatureBudget):
    """FGSM (one step, L-inf) on features."""


@CORRUPTIONS.register_module()
class FeaturePGD(PGD, FeatureBudget):
    """PGD (L-inf) on features."""


@CORRUPTIONS.register_module()
class FeaturePGDL2(PGDL2, FeatureBudget):
    """PGD (L2) on features."""


@CORRUPTIONS.register_module()
class ImageFGM(FGM, ImageBudget):
    """FGM (one step, L2) on images and frames."""


@CORRUPTIONS.register_module()
class ImageFGSM(FGSM, ImageBudget):
    """FGSM (one step, L-inf) on images and frames."""

    bounds = (1.0, 255.0)  # less than a level is none after rounding


@CORRUPTIONS.register_module()
class ImagePGD(PGD, ImageBudget):
    """PGD (L-inf) on images and frames."""

    bounds = (1.0, 255.0)  # less than a level is none after rounding


@CORRUPTIONS.register_module()
class ImagePGDL2(PGDL2, ImageBudget):
    """PGD (L2) on images and frames."""


@CORRUPTIONS.register_module()
class TextFGM(FGM, TextBudget):
    """FGM (one step, L2) on the token embeddings of texts."""


@CORRUPTIONS.register_module()
class TextFGSM(FGSM, TextBudget):
    """FGSM (one step, L-inf) on the token embeddings of texts."""


@CORRUPTIONS.register_module()
class TextPGD(PGD, TextBudget):
    """PGD (L-inf) on the token embeddings of texts."""


@CORRUPTIONS.register_module()
class TextPGDL2(PGDL2, TextBudget):
    """PGD (L2) on the token embeddings of texts."""


@CORRUPTIONS.register_module()
class WaveformFGM(FGM, WaveformBudget):
    """FGM (one step, L2) on waveforms."""


@CORRUPTIONS.register_module()
class WaveformFGSM(FGSM, WaveformBudget):
    """FGSM (one step, L-inf) on waveforms."""


@CORRUPTIONS.register_module()
class WaveformPGD(PGD, WaveformBudget):
    """PGD (L-inf) on waveforms."""


@CORRUPTIONS.register_module()
class WaveformPGDL2(PGDL2, WaveformBudget):
    """PGD (L2) on waveforms."""
