"""How statistics of the modalities turn into factors of their gradients."""

from .acceleration import ACCELERATION_MODES, AsymmetricAcceleration, acceleration
from .arl import ARL, arl_coefficients
from .base import Modulator
from .cggm import CGGM
from .eau import UncertaintyModulator
from .inforeg import InfoReg
from .ogm import OGM, ogm_coefficients

__all__ = [
    'ACCELERATION_MODES',
    'ARL',
    'CGGM',
    'OGM',
    'AsymmetricAcceleration',
    'InfoReg',
    'Modulator',
    'UncertaintyModulator',
    'acceleration',
    'arl_coefficients',
    'ogm_coefficients',
]
