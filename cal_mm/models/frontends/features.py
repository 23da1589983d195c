"""Front end of feature vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cal_mm.registry import FRONTENDS

from .base import FrontEnd, FrontEndError, FrontEndOutput

__all__ = ['FeatureFrontEnd']

#: std / |mean| of a feature that counts as constant; float32 has 1.2e-7
_CONSTANT = 1e-6


@FRONTENDS.register_module()
class FeatureFrontEnd(FrontEnd):
    """Features [D] (or [T, D], [C, F, T]) to float32 [B, ...], standardised over the last axis.

    ``mean`` and ``std`` are part of the state dict, so a checkpoint carries them. A feature that is
    constant in the training data (std <= 1e-6 |mean|) becomes 0 whatever its value: nothing was
    learnt of it, and no divisor would be right for a value that was never seen.

    Args:
        mean: per feature; None leaves them as they are or waits for ``fit`` or a checkpoint.
        std: the same, >= 0.
        standardize: (x - mean) / std. None: yes if ``mean`` and ``std`` are given.
        std_floor: smallest divisor of the features that vary, >= 0.
    """

    kind = 'features'
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        standardize: bool | None = None,
        std_floor: float = 0.0,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError('give both mean and std, or neither')
        if not std_floor >= 0:
            raise ValueError(f'std_floor must be >= 0, got {std_floor}')
        self.standardize = mean is not None if standardize is None else standardize
        self.std_floor = std_floor
        self.register_buffer('mean', torch.empty(0))
        self.register_buffer('std', torch.empty(0))
        if mean is not None:
            self.fit({'mean': mean, 'std': std})

    @property
    def fitted(self) -> bool:
        """Whether mean and std are there, or not needed."""
        return not self.standardize or self.mean.numel() > 0

    def fit(self, facts: Mapping[str, Any]) -> None:
        """Take ``mean`` and ``std`` [D] from ``facts`` (a modality's entry in the manifest, say).

        Raises:
            ValueError: they are missing, differ in length, or std is negative or not finite.
        """
        if facts.get('mean') is None or facts.get('std') is None:
            raise ValueError(f'fit needs mean and std, got {sorted(facts)}')
        mean = torch.as_tensor(facts['mean'], dtype=torch.float32).flatten()
        std = torch.as_tensor(facts['std'], dtype=torch.float32).flatten()
        finite = bool(torch.isfinite(mean).all() and torch.isfinite(std).all())
        if mean.shape != std.shape or not finite or bool((std < 0).any()):
            raise ValueError('mean and std must be finite, of one length, and std >= 0')
        self.mean = mean.to(self.device)
        self.std = std.to(self.device)

    def forward(self, values: Sequence[torch.Tensor]) -> FrontEndOutput:
        """Stack and standardise."""
        x = self.stack(values).float()
        if not self.standardize:
            return x, None
        if not self.fitted:
            raise FrontEndError(
                'FeatureFrontEnd(standardize=True) has no statistics: call fit(...) on the '
                'training data, load a checkpoint, or give mean and std'
            )
        if x.shape[-1] != self.mean.shape[0]:
            raise FrontEndError(
                f'expected the {self.mean.shape[0]} features of mean and std, got {x.shape[-1]}'
            )
        varies = self.std > _CONSTANT * self.mean.abs()
        divisor = torch.where(varies, self.std.clamp(min=self.std_floor), 1)
        return torch.where(varies, (x - self.mean) / divisor, 0), None

    def empty(self, count: int) -> FrontEndOutput | None:
        """Zeros [count, D] if D is known."""
        if not self.mean.numel():
            return None
        return torch.zeros(count, self.mean.shape[0], device=self.device), None

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # statistics that are not there yet take the checkpoint's size
        for name in ('mean', 'std'):
            stored = state_dict.get(prefix + name)
            if stored is not None and not getattr(self, name).numel():
                setattr(self, name, torch.empty(stored.shape, device=self.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
