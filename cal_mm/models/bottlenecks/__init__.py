"""Bottlenecks between encoder and fusion, and the maths of the asymmetric one."""

from .functional import bottleneck_betas, gaussian_kl
from .linear import IdentityBottleneck, LinearBottleneck
from .uncertainty import BottleneckUncertainty, posterior_numbers
from .variational import VariationalBottleneck

__all__ = [
    'BottleneckUncertainty',
    'IdentityBottleneck',
    'LinearBottleneck',
    'VariationalBottleneck',
    'bottleneck_betas',
    'gaussian_kl',
    'posterior_numbers',
]
