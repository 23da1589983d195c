"""Mean W^m against the strength of the noise, per corruption and modality that is hit."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cal_mm.evaluation.comparison import check_same_data, check_same_noise, seeds_note
from cal_mm.evaluation.results import load_results
from cal_mm.evaluation.severity import Curve

from .panels import (
    common_curves,
    figure_title,
    legend_below,
    panel_grid,
    panel_title,
    strength_axis,
    widest_curves,
)
from .robustness import model_names
from .style import _DASHES, _RC, save_figure, series_styles

__all__ = ['draw_contribution', 'plot_contribution']


def draw_contribution(
    files: Sequence[Mapping[str, Any]],
    labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """A panel per corruption and modality that is hit; every modality's mean W as a line.

    Colours are modalities, dashes models; modalities that are hit are drawn thick. The band is the
    interval of the file's summary over the samples.

    Args:
        files: results as ``load_results`` gives them; those without W are left out.
        labels: name of each model; by default its config's.
        title: over the figure.

    Raises:
        ValueError: labels that do not match the files, files of different data or numbers of
            samples, with other noise under one name or without a common corruption, or no W under
            noise of any scale.
    """
    labels = list(labels) if labels else model_names(files)
    check_same_data(files, labels, 'be in one figure')
    check_same_noise(files, labels, 'be in one figure')
    kept = [i for i, f in enumerate(files) if any(row['contribution'] for row in f['rows'])]
    files, labels = [files[i] for i in kept], [labels[i] for i in kept]
    found = common_curves(files)
    every = {k: c for k, c in widest_curves(found).items() if c.axis is not None}
    if not every:
        raise ValueError(
            'there is no W to draw: it takes a model with model.contribution (a CAL config), '
            'tested with --protocol or --attack at severities'
        )
    names = sorted({m for f in files for row in f['rows'] for m in row['contribution']})
    styles = dict(zip(names, series_styles(), strict=False))
    with matplotlib.rc_context(_RC):
        figure, axes, _ = panel_grid(len(every))
        for ax, (key, curve) in zip(axes, every.items(), strict=True):
            for i, (file, curves) in enumerate(zip(files, found, strict=True)):
                if key in curves:
                    _lines(ax, file, curves[key], styles, _dash(i))
            strength_axis(ax, [curves[key] for curves in found if key in curves])
            ax.set_title(panel_title(curve, list(every)))
            if ax.get_gid() == 'first of a row':
                ax.set_ylabel('mean W')
        top = max(ax.get_ylim()[1] for ax in axes)
        for ax in axes:
            ax.set_ylim(0, top)
        _legend(figure, styles, labels, seeds_note(files, labels))
        if title:
            figure_title(figure, title)
    return figure


def _dash(number: int) -> dict[str, Any]:
    """Look of the model ``number`` apart from its colours."""
    return {'color': '#444444', 'linestyle': _DASHES[number % len(_DASHES)]}


def _mean(rows: Sequence[Mapping[str, Any]], modality: str) -> float | None:
    values = [v for row in rows if (v := row['contribution'].get(modality)) is not None]
    return statistics.fmean(values) if values else None


def _interval(file: Mapping[str, Any], curve: Curve, modality: str) -> list | None:
    for entry in (file.get('summary') or {}).get('contribution', ()):
        same = tuple(entry['modalities']) == curve.modalities
        if same and all(entry[k] == getattr(curve, k) for k in ('protocol', 'axis', 'label')):
            return entry.get('interval', {}).get(modality)
    return None


def _lines(
    ax: Any,
    file: Mapping[str, Any],
    curve: Curve,
    styles: Mapping[str, Any],
    dash: Mapping[str, Any],
) -> None:
    clean = [row for row in file['rows'] if row['attack'] is None]
    groups = [clean, *([file['rows'][i] for i in numbers] for numbers in curve.members)]
    for modality, style in styles.items():
        values = [_mean(rows, modality) for rows in groups]
        points = [
            (x, v) for x, v in zip([0.0, *curve.strengths], values, strict=True) if v is not None
        ]
        if not points:
            continue
        hit = modality in curve.modalities
        xs, ys = zip(*points, strict=True)
        look = {**style, 'linestyle': dash['linestyle'], 'linewidth': 2.2 if hit else 1.0}
        ax.plot(xs, ys, label=modality, **look, markersize=5 if hit else 3)
        ends = _interval(file, curve, modality)
        if ends and len(ends) == len(xs):
            low, high = zip(*ends, strict=True)
            ax.fill_between(xs, low, high, color=style['color'], alpha=0.15, linewidth=0)


def _legend(
    figure: Figure, styles: Mapping[str, Any], labels: Sequence[str], seeds: str | None
) -> None:
    handles = [Line2D([], [], label=m, **style) for m, style in styles.items()]
    if len(labels) > 1:
        handles += [Line2D([], [], label=name, **_dash(i)) for i, name in enumerate(labels)]
    note = 'thick: the modality that is hit; band: 95 % bootstrap interval over samples'
    legend_below(figure, handles, 6, [note, seeds])


def plot_contribution(
    results: Sequence[str | Path],
    out: str | Path,
    labels: Sequence[str] | None = None,
    formats: Sequence[str] = ('png', 'svg'),
    title: str | None = None,
) -> list[Path]:
    """Draw W under noise of ``tools/test.py --out`` files, see :func:`draw_contribution`.

    Args:
        results: paths, one per model.
        out: path without suffix.
        labels: name of each model.
        formats: 'png', 'svg' or 'pdf'.
        title: over the figure.

    Returns:
        The files written.
    """
    figure = draw_contribution([load_results(p) for p in results], labels, title)
    return save_figure(figure, out, formats)
