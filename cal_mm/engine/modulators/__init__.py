"""How statistics of the modalities turn into factors of their gradients."""

from .acceleration import ACCELERATION_MODES, AsymmetricAcceleration, acceleration
from .arl import ARL, arl_coefficients
from .base import Modulator
from .eau import UncertaintyModulator
from .ogm import OGM, ogm_coefficients

__all__ = [
    'ACCELERATION_MODES',
    'ARL',
    'OGM',
    'AsymmetricAcceleration',
    'Modulator',
    'UncertaintyModulator',
    'acceleration',
    'arl_coefficients',
    'ogm_coefficients',
]
