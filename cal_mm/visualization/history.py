"""W^m, k and beta over the epochs of a training run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .panels import figure_title, legend_below
from .style import _RC, new_figure, save_figure, series_styles

__all__ = ['draw_history', 'load_history', 'plot_contribution_history']

_PANELS = (
    ('weights', 'Contribution $W^m$', 'share of the sum'),
    ('k', 'Gradient acceleration $k_m$', 'factor'),
    ('beta', r'Bottleneck strength $\beta_m$', 'weight of the KL term'),
)


def load_history(path: str | Path) -> list[dict[str, Any]]:
    """Read a history: one JSON object per line and epoch, in the order of the epochs.

    Each has ``epoch`` (int) and any of ``weights``, ``k``, ``beta``: {modality: float}.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is no such object (its number is given), or there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'there is no history {path}; training with ContributionHook writes contribution.jsonl '
            f'to its work directory'
        )
    rows = []
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as e:
            raise ValueError(f'{path}, line {number}: not valid JSON ({e})') from e
        if not isinstance(row, dict) or not isinstance(row.get('epoch'), int):
            raise ValueError(f'{path}, line {number}: expected an object with "epoch" (int)')
        rows.append(row)
    if not rows:
        raise ValueError(f'{path} is empty: no epoch has been finished yet')
    return sorted(rows, key=lambda row: row['epoch'])


def draw_history(rows: Sequence[dict[str, Any]], title: str | None = None) -> Figure:
    """A panel each for W, k and beta, as far as ``rows`` have them; one line per modality.

    Raises:
        ValueError: there is none of them.
    """
    panels = [p for p in _PANELS if any(row.get(p[0]) for row in rows)]
    if not panels:
        raise ValueError('the history holds none of weights, k and beta: there is nothing to draw')
    names = sorted({m for row in rows for key, *_ in panels for m in row.get(key) or ()})
    figure, axes = new_figure(1, len(panels), width=3.6, height=2.9)
    with matplotlib.rc_context(_RC):
        for ax, (key, label, unit) in zip(axes[0], panels, strict=True):
            for name, style in zip(names, series_styles(), strict=False):
                points = [
                    (row['epoch'], row[key][name]) for row in rows if name in (row.get(key) or ())
                ]
                if points:
                    ax.plot(
                        *zip(*points, strict=True), label=name, markevery=_spacing(points), **style
                    )
            ax.set(title=label, xlabel='epoch', ylabel=unit)
            ax.xaxis.get_major_locator().set_params(integer=True)
            _limits(ax, key, len(names))
        legend_below(figure, axes[0][0].get_legend_handles_labels()[0], 6)
        if title:
            figure_title(figure, title)
    return figure


def _spacing(points: Sequence[Any]) -> int:
    return max(1, len(points) // 12)


def _limits(ax: Any, key: str, count: int) -> None:
    """From zero, so that a small difference does not look like a large one."""
    if key == 'weights':
        ax.set_ylim(0, 1)
        ax.axhline(1 / max(1, count), color='#888888', linewidth=0.8, linestyle=':')
        ax.annotate(
            'equal shares',
            (1, 1 / max(1, count)),
            xycoords=('axes fraction', 'data'),
            ha='right',
            va='bottom',
            fontsize=7,
            color='#666666',
        )
        return
    high = max((float(y) for line in ax.lines for y in line.get_ydata()), default=0.0)
    ax.set_ylim(bottom=0, top=max(high, 1e-12) * 1.15)


def plot_contribution_history(
    history: str | Path,
    out: str | Path,
    formats: Sequence[str] = ('png', 'svg'),
    title: str | None = None,
) -> list[Path]:
    """Draw a history file to ``out``, one file per format.

    Args:
        history: ``contribution.jsonl`` of a work directory.
        out: path without suffix.
        formats: 'png', 'svg' or 'pdf'.
        title: over the figure.

    Returns:
        The files.
    """
    return save_figure(draw_history(load_history(history), title), out, formats)
