"""Results rows as curves over the strength of a corruption: area, mCE, relative robustness."""

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
        modalities: those that are hit.
        axis: 'severity' or 'epsilon'; None for a condition without a scale (missing, a physical
            value), which is a curve of its own with the strength 1.
        label: for people.
        strengths: ascending, clean (0) left out.
        members: per strength the numbers of its rows, one per noise seed.
    """

    protocol: str | None
    version: int | None
    attack: str
    modalities: tuple[str, ...]
    axis: str | None
    label: str
    strengths: tuple[float, ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def key(self) -> tuple:
        """What makes it the same curve in another file."""
        return self.protocol, self.version, self.attack, self.modalities, self.axis, self.label

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


def _place(row: Row) -> tuple[str | None, float, str]:
    """Axis, strength and label of a row's curve."""
    for axis in ('severity', 'epsilon'):
        if row[axis] is not None:
            return axis, float(row[axis]), f'{row["attack"]}@{"+".join(row["modalities"])}'
    return None, 1.0, str(row['condition'])


def curves_of(rows: Sequence[Row]) -> list[Curve]:
    """The curves of ``rows`` in the order of their first rows; clean rows are in none."""
    found: dict[tuple[str | None, int | None, str, tuple[str, ...], str | None, str], dict] = {}
    for number, row in enumerate(rows):
        if row['attack'] is None:
            continue
        axis, strength, label = _place(row)
        key = (
            row['protocol'],
            row['protocol_version'],
            row['attack'],
            tuple(row['modalities']),
            axis,
            label,
        )
        points: dict[float, list[int]] = found.setdefault(key, {})
        points.setdefault(strength, []).append(number)
    return [
        Curve(*key, tuple(sorted(points)), tuple(tuple(points[s]) for s in sorted(points)))
        for key, points in found.items()
    ]


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
