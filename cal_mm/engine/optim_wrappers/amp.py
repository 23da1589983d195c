"""Mixed precision on any device."""

from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from cal_mm.registry import OPTIM_WRAPPERS

__all__ = ['AnyDeviceAmp']


@OPTIM_WRAPPERS.register_module(name='AnyDeviceAmpOptimWrapper')
class AnyDeviceAmp(AmpOptimWrapper):
    """mmengine's ``AmpOptimWrapper``, which refuses a CPU, with bfloat16 and no loss scaling
    there.
    """

    def __init__(
        self,
        loss_scale: str | float | dict = 'dynamic',
        dtype: str | torch.dtype | None = None,
        use_fsdp: bool = False,
        **kwargs: Any,
    ) -> None:
        if torch.cuda.is_available():
            super().__init__(loss_scale=loss_scale, dtype=dtype, use_fsdp=use_fsdp, **kwargs)
            return
        if str(dtype or 'bfloat16').removeprefix('torch.') != 'bfloat16':
            raise ValueError(f"mixed precision on a CPU takes dtype='bfloat16', got {dtype!r}")
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        self.cast_dtype = torch.bfloat16
        self._scale_update_param = None
