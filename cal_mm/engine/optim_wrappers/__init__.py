"""OptimWrappers: what happens between the backward pass and the new weights."""

from cal_mm.registry import OPTIM_WRAPPERS

from .bound import BoundStep
from .modulated import CALAmpOptimWrapper, CALOptimWrapper, ModulatedStep, is_scale_invariant

__all__ = [
    'BoundStep',
    'CALAmpOptimWrapper',
    'CALOptimWrapper',
    'ModulatedStep',
    'amp_variant',
    'is_scale_invariant',
]


def amp_variant(name: str) -> str | None:
    """The mixed-precision variant of an OptimWrapper, as ``tools/train.py --amp`` takes it.

    ``XOptimWrapper`` has the variant ``XAmpOptimWrapper``, if that is registered, which is its own.
    """
    variant = name if 'AmpOptimWrapper' in name else name.replace('OptimWrapper', 'AmpOptimWrapper')
    return variant if OPTIM_WRAPPERS.get(variant) is not None else None
