"""OptimWrappers: what happens between the backward pass and the new weights."""

from cal_mm.registry import OPTIM_WRAPPERS

from .alternating import AlternatingAmpOptimWrapper, AlternatingOptimWrapper
from .balanced_speed import BalancedSpeedAmpOptimWrapper, BalancedSpeedOptimWrapper
from .bound import BoundStep
from .modulated import CALAmpOptimWrapper, CALOptimWrapper, ModulatedStep, is_scale_invariant
from .owned import OwnedStep
from .pareto import ParetoAmpOptimWrapper, ParetoOptimWrapper
from .staged import StagedAmpOptimWrapper, StagedOptimWrapper

__all__ = [
    'AlternatingAmpOptimWrapper',
    'AlternatingOptimWrapper',
    'BalancedSpeedAmpOptimWrapper',
    'BalancedSpeedOptimWrapper',
    'BoundStep',
    'CALAmpOptimWrapper',
    'CALOptimWrapper',
    'ModulatedStep',
    'OwnedStep',
    'ParetoAmpOptimWrapper',
    'ParetoOptimWrapper',
    'StagedAmpOptimWrapper',
    'StagedOptimWrapper',
    'amp_variant',
    'is_scale_invariant',
]


def amp_variant(name: str) -> str | None:
    """The mixed-precision variant of an OptimWrapper, as ``tools/train.py --amp`` takes it.

    ``XOptimWrapper`` has the variant ``XAmpOptimWrapper``, if that is registered, which is its own;
    the plain one has ``AnyDeviceAmpOptimWrapper``.
    """
    if name == 'OptimWrapper':
        return 'AnyDeviceAmpOptimWrapper'
    variant = name if 'AmpOptimWrapper' in name else name.replace('OptimWrapper', 'AmpOptimWrapper')
    return variant if OPTIM_WRAPPERS.get(variant) is not None else None
