"""Noise protocols: named, versioned grids of conditions.

Figures only compare within one protocol, so a results row carries its name and version, and any
change of a protocol's definition raises its version.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from cal_mm.registry import CORRUPTIONS, UnknownComponentError, suggestion

from .base import SEVERITIES, Corruption
from .condition import Condition, Modalities, drop_conditions, kind_of
from .depth import FAR, DepthGaussianNoise, DepthSaltPepper
from .features import FeatureGaussianNoise
from .image import ImageGaussianNoise, ImageSaltPepper
from .modality import MissingModality, SwapModality
from .parse import build_corruption, parse_attack
from .text import TextWordMask
from .waveform import WaveformNoise

__all__ = ['PROTOCOLS', 'Protocol', 'get_protocol']

EPSILONS = (5.0, 10.0)
_MAX_SUBSETS = 6


@dataclass(frozen=True)
class Protocol:
    """A grid of test conditions.

    Attributes:
        name: what ``--protocol`` takes.
        version: rises with every change of the definition.
        summary: one line for the documentation.
        seeds: how many noise seeds it is run with where nobody says otherwise.
        grid: ``(modalities, seed) -> conditions`` without the clean one, which every run has.
    """

    name: str
    version: int
    summary: str
    seeds: int
    grid: Callable[[Modalities, int], list[Condition]]

    def conditions(self, modalities: Modalities, seeds: Sequence[int] = (0,)) -> list[Condition]:
        """Every condition for each noise seed, clean left out.

        Raises:
            ValueError: the protocol has nothing for modalities of these kinds.
        """
        found = [
            replace(c, protocol=self.name, protocol_version=self.version, seed=seed)
            for seed in seeds
            for c in self.grid(modalities, seed)
        ]
        if not found:
            kinds = ', '.join(f'{m} ({kind_of(modalities, m)})' for m in sorted(modalities))
            raise ValueError(
                f'protocol {self.name!r} says nothing about these modalities: {kinds}. '
                f'{self.summary}'
            )
        return found


def _of_kind(modalities: Modalities, *kinds: str) -> list[str]:
    return [m for m in sorted(modalities) if kind_of(modalities, m) in kinds]


def _clipped_noise(
    modality: str, facts: str | Mapping[str, Any], kind: str, epsilon: float, seed: int
) -> Corruption | None:
    """Ours: the legacy strengths on every sample, and their like for kinds it does not know."""
    common: dict[str, Any] = dict(seed=seed, protocol='clipped')
    if kind == 'image':
        return ImageGaussianNoise(modality, std=10 * epsilon, field='shared', **common)
    if kind == 'text':
        return TextWordMask(modality, ratio=epsilon / 10, **common)
    if kind == 'waveform':
        return WaveformNoise(modality, snr_db=20 - 2 * epsilon, **common)
    if kind == 'features':
        return build_corruption(FeatureGaussianNoise, modality, facts, std=epsilon / 5, **common)
    if kind == 'depth':
        return DepthGaussianNoise(modality, std=epsilon / 10, **common)
    return None


def _clipped(modalities: Modalities, seed: int) -> list[Condition]:
    found = []
    for epsilon in EPSILONS:
        noises = {
            m: n
            for m in sorted(modalities)
            if (n := _clipped_noise(m, modalities[m], kind_of(modalities, m), epsilon, seed))
            is not None
        }
        for m, noise in noises.items():
            found.append(
                Condition(f'noise@{m} eps {epsilon:g}', (noise,), 'noise', epsilon=epsilon)
            )
        if len(noises) > 1:
            found.append(
                Condition(
                    f'noise@all eps {epsilon:g}', tuple(noises.values()), 'noise', epsilon=epsilon
                )
            )
        for m in _of_kind(modalities, 'image'):
            pepper = ImageSaltPepper(m, amount=epsilon / 100, seed=seed, protocol='clipped')
            found.append(
                Condition(
                    f'salt_pepper@{m} eps {epsilon:g}', (pepper,), 'salt_pepper', epsilon=epsilon
                )
            )
    return found


def _legacy(name: str, pepper_scale: float) -> Callable[[Modalities, int], list[Condition]]:
    """The grid of the QMF line of work; ``pepper_scale``: images hit = .5 * eps / scale."""

    def grid(modalities: Modalities, seed: int) -> list[Condition]:
        common: dict[str, Any] = dict(seed=seed, protocol=name)
        texts = _of_kind(modalities, 'text')
        found = []
        for epsilon in EPSILONS:
            masks = [TextWordMask(m, ratio=epsilon / 10, probability=0.5, **common) for m in texts]
            gauss, pepper = _legacy_pictures(modalities, epsilon, pepper_scale, common)
            for attack, noises in (('gaussian', gauss), ('salt_pepper', pepper)):
                if noises or (masks and attack == 'gaussian'):
                    found.append(
                        Condition(
                            f'{attack} eps {epsilon:g}',
                            (*noises, *masks),
                            attack,
                            epsilon=epsilon,
                        )
                    )
        return found

    return grid


def _legacy_pictures(
    modalities: Modalities, epsilon: float, pepper_scale: float, common: dict[str, Any]
) -> tuple[list[Corruption], list[Corruption]]:
    """Gaussian and salt-and-pepper noise of the legacy grid on images and depth maps.

    Depth in metres gets what its picture would get whose levels 0..255 stand for 0 to 10 m.
    """
    images, depths = _of_kind(modalities, 'image'), _of_kind(modalities, 'depth')
    # the RGB-D rule (std = epsilon, not 10 x epsilon) where there are only pictures
    pictures = len(images) + len(depths)
    rgbd = pictures > 1 and pictures == len(modalities)
    std = epsilon if rgbd else 10 * epsilon
    blurred: dict[str, Any] = dict(overflow='wrap', probability=0.5, **common)
    sprinkled: dict[str, Any] = dict(amount=0.1, probability=0.5 * epsilon / pepper_scale, **common)
    gauss = [ImageGaussianNoise(m, std=std, field='shared', **blurred) for m in images]
    metres = std * FAR / 255
    return (
        [*gauss, *(DepthGaussianNoise(m, std=metres, **blurred) for m in depths)],
        [
            *(ImageSaltPepper(m, **sprinkled) for m in images),
            *(DepthSaltPepper(m, **sprinkled) for m in depths),
        ],
    )


def _families(modalities: Modalities, seed: int) -> list[Condition]:
    """Every corruption of cal_mm that fits at severities 1..5; missing, swapped; all at once.

    All at once twice: on every sample (``noise``), and one event that hits half of them
    (``correlated``).
    """
    found = []
    for m in sorted(modalities):
        facts = modalities[m]
        for cls in CORRUPTIONS.module_dict.values():
            # a user's own is no part of what the protocol's version stands for
            fits = cls.__module__.startswith('cal_mm.') and cls.sample_wise
            if not fits or cls.kind != kind_of(modalities, m) or not _can_act(cls, facts):
                continue
            for severity in SEVERITIES:
                noise = build_corruption(
                    cls, m, facts, severity=severity, seed=seed, protocol='corruption-1'
                )
                found.append(
                    Condition(f'{cls.__name__}:{severity}@{m}', (noise,), cls.__name__, severity)
                )
        common: dict[str, Any] = dict(seed=seed, protocol='corruption-1')
        if len(modalities) > 1:
            found.append(Condition(f'missing@{m}', (MissingModality(m, **common),), 'missing'))
            found.append(Condition(f'swap@{m}', (SwapModality(m, **common),), 'swap'))
    if len(modalities) > 1:
        for attack in ('noise', 'correlated'):
            found.extend(parse_attack(attack, modalities, seed, 'corruption-1'))
    return found


def _can_act(cls: type[Corruption], facts: str | Mapping[str, Any]) -> bool:
    """Whether it has the frames or the colours that it needs; unknown colours count as there."""
    known = {} if isinstance(facts, str) else facts
    frames = known.get('frames') or 1
    clip = frames is True or frames >= 2  # True: a list of them, of any length
    shape = list(known.get('shape') or [])
    grey = known.get('channels') == 1 or (len(shape) >= 3 and shape[-3] == 1)
    return not ((cls.needs_frames and not clip) or (cls.needs_colour and grey))


def _adversarial(modalities: Modalities, seed: int) -> list[Condition]:
    """One-step and iterated attacks on each modality and, jointly, on all."""
    names = sorted(modalities)
    where = [*names, '+'.join(names)] if len(names) > 1 else names
    return [
        condition
        for attack in ('fgsm', 'pgd', 'pgd_l2')
        for target in where
        for condition in parse_attack(f'{attack}:1,3,5@{target}', modalities, seed, 'adversarial')
    ]


def _missing(modalities: Modalities, seed: int) -> list[Condition]:
    """Every proper subset of the modalities dropped (each alone where there are more than six)."""
    names = sorted(modalities)
    if len(names) < 2:
        raise ValueError(
            f"protocol 'missing' needs at least two modalities, the model has only "
            f'{", ".join(names)}: with it missing nothing is left to classify'
        )
    sizes = range(1, len(names)) if len(names) <= _MAX_SUBSETS else range(1, 2)
    subsets = ['+'.join(s) for size in sizes for s in combinations(names, size)]
    return drop_conditions(subsets, modalities, seed)


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(
            'clipped',
            1,
            'The default. epsilon 5 and 10 on every sample, each modality alone and all together: '
            'image Gaussian std 10 eps (clipped), words masked eps/10, white noise at '
            '20 - 2 eps dB, features std eps/5, depth std eps/10 m; images also salt and pepper '
            'eps/100.',
            5,
            _clipped,
        ),
        Protocol(
            'qmf-legacy',
            2,
            'As published code does it: image Gaussian std 10 eps (eps for RGB-D and other image '
            'pairs without text, each modality on its own), negative pixels wrap modulo 256, '
            'probability .5; salt and pepper on 10 % of the pixels of .5 eps/10 of the images; '
            'with probability .5 each word of a text masked at eps/10. Depth in metres gets the '
            'same noise as its 8-bit picture of 0 to 10 m (std eps 10/255 m, wrapped), holes stay '
            'holes. Other kinds stay clean.',
            5,
            _legacy('qmf-legacy', 10),
        ),
        Protocol(
            'qmf-2025',
            2,
            'qmf-legacy with salt and pepper on .5 eps/100 of the images.',
            5,
            _legacy('qmf-2025', 100),
        ),
        Protocol(
            'pdf',
            2,
            'The noise of qmf-legacy; published with 10 training seeds x 5 noise seeds.',
            5,
            _legacy('pdf', 10),
        ),
        Protocol(
            'corruption-1',
            3,
            'Every corruption of cal_mm that fits a modality at severities 1 to 5 (frame '
            'corruptions only on clips, saturation only on colours), each modality missing and '
            'swapped with another class, noise on all modalities of every sample, and '
            '`correlated`: one event that hits the same half of the samples in all modalities.',
            1,
            _families,
        ),
        Protocol(
            'adversarial',
            2,
            'FGSM, PGD (L-inf) and PGD (L2), 10 steps from a random start, at severities 1, 3 and '
            '5: each modality alone, and all of them jointly with a budget each.',
            1,
            _adversarial,
        ),
        Protocol(
            'missing',
            1,
            'Every proper subset of the modalities missing; of more than six, each alone only.',
            1,
            _missing,
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol ``name``.

    Raises:
        LookupError: no such protocol; the known ones are listed.
    """
    if name not in PROTOCOLS:
        known = sorted(PROTOCOLS)
        raise UnknownComponentError(
            f'{name!r} is not a noise protocol.{suggestion(name, known)} Known: {", ".join(known)}.'
        )
    return PROTOCOLS[name]
