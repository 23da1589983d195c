"""A panel per corruption and modality: what the figures over severity share."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from cal_mm.evaluation.severity import Curve, curves_of

from .style import _RC, new_figure

__all__ = [
    'common_curves',
    'figure_title',
    'legend_below',
    'panel_grid',
    'panel_title',
    'strength_axis',
    'widest_curves',
]

_TITLE = 30  # characters on a line, and in small panels:
_SMALL_TITLE = 24
_MANY = 12  # panels from which on they are smaller
_FULL_ROW = 4  # conditions without a scale from which on they get a row of their own
_POINTS = _RC['font.size']
_HANDLE = 4  # width of a legend's handle and of the space around it, in font sizes
_LEGEND = 0.5  # inches that the panels' height leaves for a legend: a line below its title


def common_curves(files: Sequence[Mapping[str, Any]]) -> list[dict[tuple, Curve]]:
    """Each file's curves by their keys.

    Raises:
        ValueError: several files of which no two have a corruption in common.
    """
    found = [{c.key: c for c in curves_of(f['rows'])} for f in files]
    keys = [k for curves in found for k in curves]
    if len(files) > 1 and keys and len(set(keys)) == len(keys):
        names = [', '.join(list(dict.fromkeys(c.label for c in f.values()))[:3]) for f in found]
        told = '; '.join(f'file {i + 1}: {n or "only clean"}' for i, n in enumerate(names))
        raise ValueError(
            f'these results have no corruption in common, so there is nothing to compare in one '
            f'figure ({told}): test all models with the same --protocol or --attack'
        )
    return found


def widest_curves(found: Sequence[Mapping[tuple, Curve]]) -> dict[tuple, Curve]:
    """A curve for each key of several files: that of the model of which most modalities are hit."""
    widest: dict[tuple, Curve] = {}
    for curves in found:
        for key, curve in curves.items():
            if len(curve.modalities) > len(widest.get(key, curve).modalities) or key not in widest:
                widest[key] = curve
    return widest


def panel_grid(panels: int, others: int = 0) -> tuple[Figure, list[Any], Any]:
    """A figure of ``panels`` panels and, with ``others`` > 0, one for conditions without a scale.

    Up to four columns for few panels, at most six for many, and smaller ones then. The last panel
    has a row of its own where it holds more than four conditions.

    Returns:
        (figure, the panels, the last panel or None).
    """
    wide = others > _FULL_ROW
    cells = panels + (0 if wide else bool(others))
    columns = cells if 0 < cells <= 4 else min(6, max(4, math.ceil(math.sqrt(1.2 * cells))))
    if wide:
        columns = max(columns, 2)
    rows = math.ceil(cells / columns) + wide
    size = (2.7, 2.25) if cells > _MANY else (3.4, 2.7)
    figure, grid = new_figure(rows, columns, *size)
    flat = [ax for line in grid for ax in line]
    last = None
    if wide:
        last = figure.add_subplot(grid[0][0].get_gridspec()[-1, :])
    elif others:
        last = flat[panels]
    for ax in flat[cells:]:
        ax.remove()
    for ax in flat[:cells:columns]:
        ax.set_gid('first of a row')
    return figure, flat[:panels], last


def panel_title(curve: Curve, keys: Sequence[tuple]) -> str:
    """Corruption, modalities and options; the protocol too where the figure has several."""
    modalities = curve.modalities
    where = ' + '.join(modalities) if len(modalities) < 3 else f'{len(modalities)} modalities'
    title = f'{curve.attack.replace("_", " ")} on {where}'
    if curve.options:
        title += f' ({curve.options.replace(",", ", ")})'
    if len({key[:2] for key in keys}) > 1 and curve.protocol:
        title += (
            f' ({curve.protocol} v{curve.version})' if curve.version else f' ({curve.protocol})'
        )
    width = _SMALL_TITLE if len(keys) > _MANY else _TITLE
    return '\n'.join(textwrap.wrap(title, width))


def strength_axis(ax: Any, curves: Sequence[Curve]) -> None:
    """Ticks at clean and at every strength of ``curves``."""
    ticks = [0.0, *sorted({s for c in curves for s in c.strengths})]
    ax.set_xticks(ticks, ['clean' if t == 0 else f'{t:g}' for t in ticks])
    ax.set_xlabel(curves[0].axis)


def _wrapped(text: str, size: float, room: float) -> str:
    """``text`` in lines of at most ``room`` points at the font size ``size``."""
    width = len(text)
    while True:
        lines = [part for n in text.splitlines() for part in textwrap.wrap(n, max(1, width))]
        widest = max((TextPath((0, 0), n, size=size).get_extents().width for n in lines), default=0)
        if widest <= room or width <= 1:
            return '\n'.join(lines)
        width = min(width - 1, int(width * room / widest))


def figure_title(figure: Figure, title: str) -> None:
    """``title`` over the panels, in as many lines as its length needs."""
    figure.suptitle(_wrapped(title, 1.2 * _POINTS, 0.95 * 72 * figure.get_figwidth()))


def legend_below(
    figure: Figure, handles: Sequence[Any], most: int, notes: Sequence[str | None] = ()
) -> None:
    """A legend below the panels that is no wider than the figure, which grows if it is high.

    Args:
        figure: with its panels.
        handles: artists with labels; a label that is too long is broken into lines.
        most: columns at most.
        notes: over the legend, each on lines of its own; None: nothing to say.
    """
    room = 0.95 * 72 * figure.get_figwidth()
    labels = [_wrapped(h.get_label(), _POINTS, room - _HANDLE * _POINTS) for h in handles]
    title = '\n'.join(_wrapped(note, 0.833 * _POINTS, room) for note in notes if note)
    for columns in range(min(most, len(handles)), 0, -1):
        legend = figure.legend(
            handles,
            labels,
            loc='outside lower center',
            ncols=columns,
            title=title or None,
            title_fontsize='small',
        )
        legend.get_title().set_multialignment('center')
        box = legend.get_window_extent()
        if box.width <= room / 72 * figure.dpi or columns == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + max(0.0, box.height / figure.dpi - _LEGEND))
