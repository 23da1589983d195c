"""What one unit of an attack's budget is, for each kind of modality.

A budget is a number of units of a scale: levels for pixels, the clip's RMS for waveforms, standard
deviations of the training data for features, metres for depth, the mean norm of a text's own token
embeddings for text. The largest change of a value (``linf``) or the root mean square of all changes
(``l2``) stays within it, so that the same number is the same root mean square at any size, and the
L-inf ball lies inside the L2 ball of the same number.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from .adversarial_functional import round_within
from .base import Corruption

__all__ = ['DepthBudget', 'FeatureBudget', 'ImageBudget', 'TextBudget', 'WaveformBudget']

_STEP = 1e-3  # metres: what a 16-bit depth map in millimetres can tell
_DEEPEST = 65.535


class Budget(Corruption):
    """Scale, valid range and final form of one kind's values, on rows [n, N]."""

    parameter = 'eps'
    sample_wise = False
    budget_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    l2_unit: ClassVar[str] = ''

    @property
    def eps(self) -> float:
        """The budget in units of :meth:`scale`."""
        return self.value

    def scale(self, values: Tensor, valid: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """One unit for each value [n, N] (or [n, 1]); 0 where nothing may change.

        Args:
            values: clean values, padded, [n, N]; for text the token embeddings.
            valid: bool [n, N], false at padding.
            shapes: of each row's value.
        """
        return torch.ones_like(values)

    def limits(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest value [n, N] that the kind allows."""
        return torch.full_like(values, -torch.inf), torch.full_like(values, torch.inf)

    def finished(self, values: Tensor, v: Tensor, scale: Tensor, radius: Tensor) -> Tensor:
        """What is handed on for the perturbation ``v``: values of the kind, [n, N]."""
        low, high = self.limits(values)
        return torch.minimum(torch.maximum(values + scale * v, low), high)


class ImageBudget(Budget):
    """Levels of 0..255 per pixel and channel; the result is rounded to uint8 within the budget."""

    kind = 'image'
    unit = 'levels of 0..255'
    l2_unit = 'levels of 0..255, RMS'
    levels = (1.0, 2.0, 4.0, 8.0, 16.0)
    bounds = (0.0, 255.0)
    norm: ClassVar[str]

    def limits(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """0 and 255."""
        return torch.zeros_like(values), torch.full_like(values, 255.0)

    def finished(self, values: Tensor, v: Tensor, scale: Tensor, radius: Tensor) -> Tensor:
        """Whole levels, neither outside 0..255 nor over the budget."""
        return (values + round_within(v, radius, self.norm)).clamp(0, 255)


class WaveformBudget(Budget):
    """SNR in dB: at full budget the perturbation's RMS is the clip's, lowered by that many dB.

    With ``linf`` the largest amplitude is that RMS. A silent clip stays silent.
    """

    kind = 'waveform'
    parameter = 'snr_db'
    unit = 'dB (amplitude against the clip)'
    l2_unit = 'dB (RMS against the clip)'
    levels = (60.0, 50.0, 40.0, 30.0, 20.0)
    bounds = (-20.0, 120.0)

    @property
    def eps(self) -> float:
        """Share of the clip's RMS."""
        return 10 ** (-self.value / 20)

    def scale(self, values: Tensor, valid: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """RMS of each clip."""
        power = (values * valid).double().square().sum(1, keepdim=True)
        return (power / valid.sum(1, keepdim=True)).sqrt().to(values.dtype)

    def limits(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """-1 and 1; a sample beyond them may stay where it is."""
        return values.clamp_max(-1), values.clamp_min(1)


class FeatureBudget(Budget):
    """Standard deviations of the training data where the manifest has them, else features' unit.

    ``scale``: the unit of each of the D features; tools/test.py fills in the manifest's ``std``. A
    feature without variance is left alone.
    """

    kind = 'features'
    unit = 'unit of the features'
    l2_unit = 'unit of the features, RMS'
    levels = (0.02, 0.05, 0.1, 0.2, 0.5)
    bounds = (0.0, 1e9)
    budget_options = MappingProxyType({'std': None})
    std: Sequence[float] | None

    def scale(self, values: Tensor, valid: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """The standard deviation of each feature, or ones."""
        if self.std is None:
            return torch.ones_like(values)
        unit = torch.as_tensor(self.std, dtype=values.dtype, device=values.device).flatten()
        other = next((s for s in shapes if s[-1] != len(unit)), None)
        if other is not None:
            raise ValueError(
                f'{self.name}: std has {len(unit)} numbers, but modality {self.modality!r} has '
                f'{other[-1]} features'
            )
        return unit.repeat(-(-values.shape[1] // len(unit)))[: values.shape[1]].expand_as(values)

    def describe(self) -> dict[str, Any]:
        """As the base does, with the unit that is in force."""
        found = super().describe()
        if self.std is not None:
            rms = ', RMS' if self.unit.endswith('RMS') else ''
            found['unit'] = f'standard deviations of the training data{rms}'
        return found


class DepthBudget(Budget):
    """Metres. Holes (0) stay holes; a measured pixel stays at least a millimetre away."""

    kind = 'depth'
    unit = 'metres'
    l2_unit = 'metres, RMS'
    levels = (0.01, 0.02, 0.05, 0.1, 0.2)
    bounds = (0.0, 100.0)

    def scale(self, values: Tensor, valid: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """1 where something was measured."""
        return (values > 0).to(values.dtype)

    def limits(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """A millimetre and what 16 bits of millimetres hold."""
        return values.clamp_max(_STEP), values.clamp_min(_DEEPEST)


class TextBudget(Budget):
    """The mean norm of the text's own token embeddings; the perturbation is added to them.

    With ``l2`` the RMS over the tokens of the perturbation's norm is ``eps`` times that mean; with
    ``linf`` no token moves further than that. The words stay as they are: no text may give these
    embeddings, so this bounds what an attacker of words can do.
    """

    kind = 'text'
    unit = 'mean norm of the token embeddings'
    l2_unit = 'mean norm of the token embeddings, RMS'
    levels = (0.002, 0.005, 0.01, 0.02, 0.05)
    bounds = (0.0, 1e3)

    def scale(self, values: Tensor, valid: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """Mean norm over sqrt(E), so that an embedding of such coordinates has that norm."""
        width = shapes[0][-1]
        tokens = values.double().unflatten(1, (-1, width)).norm(dim=2)
        there = valid.unflatten(1, (-1, width))[..., 0]
        mean = (tokens * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp_min(1)
        return (mean / width**0.5).to(values.dtype)
