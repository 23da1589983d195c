"""A metric against severity, per corruption and modality, for one or several models."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

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
from .style import _RC, save_figure, series_styles

__all__ = ['BANDS', 'draw_robustness', 'model_names', 'plot_robustness']

BANDS = ('interval', 'seeds')

_ACCURACY = 'accuracy/top1'

#: mean, low, high of a metric at one strength; low == high without a band
Point = tuple[float, float, float]


def model_names(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short, distinct name per results file: the config's, with the checkpoint's where needed."""
    stems = [Path(r['config']['path']).stem for r in files]
    names = [
        stem if stems.count(stem) == 1 else f'{stem} ({Path(r["checkpoint"]["path"]).parent.name})'
        for stem, r in zip(stems, files, strict=True)
    ]
    return [n if names.count(n) == 1 else f'{n} #{i + 1}' for i, n in enumerate(names)]


class _File:
    """A results file's points and their bands: of one kind, so that widths can be compared."""

    def __init__(
        self, results: Mapping[str, Any], curves: Mapping[tuple, Curve], metric: str, band: str
    ) -> None:
        self.rows, self.metric = results['rows'], metric
        self.intervals = {
            (c['protocol'], c['condition']): c['metrics'].get(metric, {}).get('interval')
            for c in (results.get('summary') or {}).get('conditions', ())
        }
        if band == 'seeds' or not any(self.intervals.values()):
            self.intervals = {}
        self.bands: set[str] = set()
        clean = [i for i, row in enumerate(self.rows) if row['attack'] is None]
        self.clean = self.point(clean) if clean else None
        #: the curves that have the metric
        self.curves = {k: c for k, c in curves.items() if self.series(c)}

    def point(self, numbers: Sequence[int]) -> Point | None:
        """Mean over noise seeds with its interval in the summary, else with one deviation."""
        known = [v for i in numbers if (v := self.rows[i]['metrics'].get(self.metric)) is not None]
        if not known:
            return None
        mean = statistics.fmean(known)
        row = self.rows[numbers[0]]
        ends = self.intervals.get((row['protocol'], row['condition']))
        if ends:
            self.bands.add('95 % bootstrap interval over samples')
            return mean, ends[0], ends[1]
        if self.intervals or len(known) < 2:
            return mean, mean, mean
        self.bands.add('one standard deviation over noise seeds')
        spread = statistics.stdev(known)
        return mean, mean - spread, mean + spread

    def series(self, curve: Curve) -> dict[float, Point]:
        """Point at each strength, clean at 0."""
        found = {}
        for strength, numbers in zip(curve.strengths, curve.members, strict=True):
            point = self.point(numbers)
            if point is not None:
                found[strength] = point
        if found and self.clean is not None and curve.axis is not None:
            found = {0.0: self.clean, **found}
        return found


def draw_robustness(
    files: Sequence[Mapping[str, Any]],
    labels: Sequence[str] | None = None,
    metric: str = _ACCURACY,
    title: str | None = None,
    band: str = 'interval',
) -> Figure:
    """A panel per corruption and modality, a line per model; strength 0 is clean.

    The line is the mean over the noise seeds; where the files have other seeds, the legend says so.
    The band is the bootstrap interval of the file's summary, or with ``band='seeds'``, and where
    there is none, one standard deviation over the noise seeds. Conditions without a scale (missing,
    physical values) share a last panel of their own.

    Args:
        files: results as ``load_results`` gives them.
        labels: name of each model; by default its config's.
        metric: key in ``metrics``.
        title: over the figure.
        band: 'interval' or 'seeds'.

    Raises:
        ValueError: another band, labels that do not match the files, files of different data or
            numbers of samples or with other noise under one name, several files without a common
            corruption, or no condition but clean.
    """
    if band not in BANDS:
        raise ValueError(f'band must be one of {", ".join(BANDS)}, got {band!r}')
    labels = list(labels) if labels else model_names(files)
    check_same_data(files, labels, 'be in one figure')
    check_same_noise(files, labels, 'be in one figure')
    found = [_File(f, c, metric, band) for f, c in zip(files, common_curves(files), strict=True)]
    every = widest_curves([f.curves for f in found])
    panels = [key for key, curve in every.items() if curve.axis is not None]
    others = [key for key, curve in every.items() if curve.axis is None]
    if not every:
        known = sorted({k for f in files for row in f['rows'] for k in row['metrics']})
        raise ValueError(
            f'there is nothing to draw: no condition but clean has the metric {metric!r} (metrics '
            f'of these files: {", ".join(known) or "none"}); run tools/test.py with --attack, '
            f'--drop or --protocol'
        )
    with matplotlib.rc_context(_RC):
        figure, axes, last = panel_grid(len(panels), len(others))
        for ax, key in zip(axes, panels, strict=True):
            _lines(ax, key, found, labels)
            ax.set_title(panel_title(every[key], list(every)))
        if last is not None:
            _points(last, others, found, labels)
        drawn = [*axes, *([] if last is None else [last])]
        _share_limits(drawn)
        for ax in drawn:
            if ax.get_gid() == 'first of a row' or ax is last:
                ax.set_ylabel(_axis_label(metric))
        bands = sorted({b for f in found for b in f.bands})
        note = f'band: {" or ".join(bands)}' if bands else None
        _legend(figure, labels, [note, seeds_note(files, labels, metric)])
        if title:
            figure_title(figure, title)
    return figure


def _lines(ax: Any, key: tuple, found: Sequence[_File], labels: Sequence[str]) -> None:
    for file, label, style in zip(found, labels, series_styles(), strict=False):
        if key not in file.curves:
            continue
        series = file.series(file.curves[key])
        xs = sorted(series)
        ax.plot(xs, [series[x][0] for x in xs], label=label, **style)
        low, high = ([series[x][i] for x in xs] for i in (1, 2))
        if low != high:
            ax.fill_between(xs, low, high, color=style['color'], alpha=0.15, linewidth=0)
    strength_axis(ax, [f.curves[key] for f in found if key in f.curves])


def _points(
    ax: Any, others: Sequence[tuple], found: Sequence[_File], labels: Sequence[str]
) -> None:
    """Models side by side for each condition without a scale."""
    step = 0.5 / max(1, len(labels))
    names = [''] * len(others)
    for i, (file, style) in enumerate(zip(found, series_styles(), strict=False)):
        for j, key in enumerate(others):
            if key not in file.curves:
                continue
            names[j] = file.curves[key].label
            mean, low, high = file.series(file.curves[key])[1.0]
            x = j + (i - (len(labels) - 1) / 2) * step
            # an interval need not be symmetric, nor hold the mean to the last bit
            errors = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
            ax.errorbar(
                [x],
                [mean],
                errors if low != high else None,
                fmt=style['marker'],
                color=style['color'],
                capsize=2,
                linewidth=1,
            )
    rotation = 0 if len(others) <= 2 else 30
    align = 'right' if rotation else 'center'
    ax.set_xticks(range(len(others)), names, rotation=rotation, ha=align)
    ax.set_xlim(-0.6, len(others) - 0.4)
    ax.set_title('other conditions')


def _share_limits(axes: Sequence[Any]) -> None:
    """One vertical scale, so that panels can be compared."""
    low = min(ax.get_ylim()[0] for ax in axes)
    high = max(ax.get_ylim()[1] for ax in axes)
    pad = 0.03 * (high - low)
    for ax in axes:
        ax.set_ylim(low - pad, high + pad)


def _axis_label(metric: str) -> str:
    names = {
        _ACCURACY: 'accuracy (%)',
        'f1/macro': 'macro F1 (%)',
        'nll': 'NLL (nats)',
        'ece': 'ECE (%)',
        'brier': 'Brier score',
        'aurc': 'AURC (%)',
        'e_aurc': 'E-AURC (%)',
    }
    return names.get(metric, metric)


def _legend(figure: Figure, labels: Sequence[str], notes: Sequence[str | None]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=name, **s) for name, s in zip(labels, series_styles(), strict=False)
    ]
    legend_below(figure, handles, 4, notes)


def plot_robustness(
    results: Sequence[str | Path],
    out: str | Path,
    labels: Sequence[str] | None = None,
    metric: str = _ACCURACY,
    formats: Sequence[str] = ('png', 'svg'),
    title: str | None = None,
    band: str = 'interval',
) -> list[Path]:
    """Draw results files of ``tools/test.py --out`` into one figure.

    Args:
        results: paths, one per model.
        out: path without suffix.
        labels: name of each model in the legend.
        metric: which metric is drawn.
        formats: 'png', 'svg' or 'pdf'.
        title: over the figure.
        band: 'interval' or 'seeds', see :func:`draw_robustness`.

    Returns:
        The files written.

    Raises:
        FileNotFoundError, ResultsError: see :func:`cal_mm.evaluation.load_results`.
        ValueError: see :func:`draw_robustness`.
    """
    figure = draw_robustness([load_results(p) for p in results], labels, metric, title, band)
    return save_figure(figure, out, formats)
