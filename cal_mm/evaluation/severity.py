"""Results rows as curves over the strength of a corruption: area, mCE, relative robustness."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    'Curve',
    'area_under_severity',
    'corruption_error',
    'curves_of',
    'relative_corruption_error',
]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """One corruption of one modality (or of several at once) over its strengths.

    Attributes:
        protocol: name of the noise protocol, and
        version: its version.
        attack: short name of the noise.
        options: what was asked for beside the strength, such as ``liquid=mud``.
        modalities: those that are hit.
        axis: 'severity' or 'epsilon'; None for a condition without a scale (missing, a physical
            value), which is a curve of its own with the strength 1.
        label: for people.
        family: the condition without its strength.
        strengths: ascending, clean (0) left out.
        members: per strength the numbers of its rows, one per noise seed.
    """

    protocol: str | None
    version: int | None
    attack: str
    options: str
    modalities: tuple[str, ...]
    axis: str | None
    label: str
    family: str
    strengths: tuple[float, ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def key(self) -> tuple:
        """What makes it the same curve in another file, whose model may take other modalities."""
        return self.protocol, self.version, self.attack, self.axis, self.family

    def describe(self) -> dict[str, Any]:
        """Its place in a results file's summary."""
        return {
            'protocol': self.protocol,
            'protocol_version': self.version,
            'attack': self.attack,
            'modalities': list(self.modalities),
            'axis': self.axis,
            'label': self.label,
            'strengths': list(self.strengths),
        }


def _place(row: Row) -> tuple[str | None, float, str, str]:
    """Axis, strength, options and family of a row's curve."""
    condition = str(row['condition'])
    plain = f'{row["attack"]}@{"+".join(row["modalities"])}'
    if row['severity'] is not None:
        asked = re.fullmatch(
            rf'([^:@\s]+):{row["severity"]}(?:,([^@\s]+))?@(\S+)',
            condition,
        )
        if asked is None:
            return 'severity', float(row['severity']), '', plain
        options = asked[2] or ''
        return 'severity', float(row['severity']), options, f'{asked[1]}:{options}@{asked[3]}'
    if row['epsilon'] is not None:
        family = condition.removesuffix(f' eps {row["epsilon"]:g}')
        return 'epsilon', float(row['epsilon']), '', plain if family == condition else family
    return None, 1.0, '', condition


def curves_of(rows: Sequence[Row]) -> list[Curve]:
    """The curves of ``rows`` in the order of their first rows; clean rows are in none."""
    found: dict[tuple, dict[float, list[int]]] = {}
    for number, row in enumerate(rows):
        if row['attack'] is None:
            continue
        axis, strength, options, family = _place(row)
        key = (row['protocol'], row['protocol_version'], row['attack'], options, axis, family)
        found.setdefault(key, {}).setdefault(strength, []).append(number)
    curves = []
    for (protocol, version, attack, options, axis, family), points in found.items():
        strengths = tuple(sorted(points))
        members = tuple(tuple(points[s]) for s in strengths)
        modalities = tuple(rows[members[0][0]]['modalities'])
        hit = '+'.join(modalities)
        label = f'{attack}:{options}@{hit}' if options else f'{attack}@{hit}'
        curves.append(
            Curve(
                protocol=protocol,
                version=version,
                attack=attack,
                options=options,
                modalities=modalities,
                axis=axis,
                label=family if axis is None else label,
                family=family,
                strengths=strengths,
                members=members,
            )
        )
    return curves


def area_under_severity(strengths: ArrayLike, values: ArrayLike, clean: float) -> float:
    """Area under a metric over the strength, which is scaled so that the last one is 1.

    By the trapezoid rule, clean at strength 0 included: the metric's mean over the range, in the
    metric's unit.

    Args:
        strengths: [L], ascending, above 0.
        values: [L], the metric at each.
        clean: the metric without noise.
    """
    x = np.concatenate([[0.0], np.asarray(strengths, dtype=float)])
    y = np.concatenate([[clean], np.asarray(values, dtype=float)])
    return float(np.trapezoid(y, x / x[-1]))


def corruption_error(errors: ArrayLike, reference: ArrayLike) -> float | None:
    """CE of ImageNet-C, in percent: the errors summed over severities over the reference's.

    Args:
        errors: [L], in any unit.
        reference: [L], the reference model's, in the same unit.

    Returns:
        100 means as bad as the reference; None where the reference makes no error.
    """
    return _ratio(np.sum(errors), np.sum(reference))


def relative_corruption_error(
    errors: ArrayLike, clean: float, reference: ArrayLike, reference_clean: float
) -> float | None:
    """Relative CE of ImageNet-C, in percent: as CE, each model's clean error subtracted.

    Returns:
        None where the noise does not raise the reference's error, so that there is no scale.
    """
    rise = np.sum(np.asarray(errors, dtype=float) - clean)
    return _ratio(rise, np.sum(np.asarray(reference, dtype=float) - reference_clean))


def _ratio(value: float, scale: float) -> float | None:
    # errors are shares of a finite set: what is below this is rounding
    return float(100 * value / scale) if scale > 1e-9 else None
