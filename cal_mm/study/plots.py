"""Figures of a study: curves over samples and label noise, critical-difference diagrams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from cal_mm.visualization.style import new_figure, save_figure, series_styles

from .outcomes import Panel
from .plan import Plan
from .ranks import Ranking, cliques

__all__ = ['Curve', 'curves_of', 'mean_interval_t', 'plot_curves', 'plot_ranking']


@dataclass(frozen=True)
class Curve:
    """Clean accuracy over a training condition's strength.

    Attributes:
        kind: ``samples`` or ``label noise``.
        dataset: title of the panel.
        x: strengths, rising.
        series: title -> accuracies [len(x)][seeds]; [] where a point is missing.
    """

    kind: str
    dataset: str
    x: tuple[float, ...]
    series: dict[str, list[list[float]]]


def curves_of(plan: Plan, panels: Sequence[Panel]) -> list[Curve]:
    """The curves that the study's conditions make, with at least two points each.

    Conditions that set only ``num_samples`` and the plain one make the first kind, those that set
    only ``label_noise`` and the plain one the second.
    """
    found = []
    for spec in plan.study.datasets.values():
        mine = [panel for panel in panels if panel.dataset == spec.name]
        if not mine:  # left out by --only: it need not be prepared
            continue
        size = plan.builder.manifest(spec)['splits']['train']['num_samples']
        for kind in ('samples', 'label noise'):
            points: dict[float, Panel] = {}
            for panel in mine:
                condition = plan.study.training[panel.training]
                if condition.transforms or condition.options:
                    continue
                n, share = condition.num_samples, condition.label_noise
                if kind == 'samples' and not share:
                    points[size if n is None else n] = panel
                elif kind == 'label noise' and n is None:
                    points[100 * share] = panel
            if len(points) > 1:
                found.append(_curve(kind, spec.title or spec.name, points))
    return found


def _curve(kind: str, title: str, points: Mapping[float, Panel]) -> Curve:
    x = tuple(sorted(points))
    names: dict[str, str] = {}
    for panel in points.values():
        names.update({e.key: e.title for e in panel.entries})
    series = {}
    for key, name in names.items():
        values = [points[v].outcomes.get((key, 'clean')) for v in x]
        if sum(o is not None for o in values) > 1:
            series[name] = [[] if o is None else list(o.accuracy) for o in values]
    return Curve(kind, title, x, series)


def mean_interval_t(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and the ends of Student's interval of it; the ends are the mean for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    half = float(stats.sem(values) * stats.t.ppf((1 + level) / 2, len(values) - 1))
    return mean, mean - half, mean + half


def plot_curves(curves: Sequence[Curve], out: str | Path) -> list[Path]:
    """A panel per curve; bands are 95 % intervals of the mean over the seeds."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = new_figure(rows, columns)
    for i in range(rows * columns):
        ax = axes[i // columns][i % columns]
        if i >= len(curves):
            ax.set_visible(False)
            continue
        curve = curves[i]
        for style, (name, values) in zip(series_styles(), curve.series.items(), strict=False):
            there = [j for j, v in enumerate(values) if v]
            x = [curve.x[j] for j in there]
            ends = [mean_interval_t(values[j]) for j in there]
            ax.plot(x, [e[0] for e in ends], label=name, **style)
            ax.fill_between(
                x, [e[1] for e in ends], [e[2] for e in ends], color=style['color'], alpha=0.15
            )
        samples = curve.kind == 'samples'
        if samples:
            ax.set_xscale('log')
            ax.set_xticks(curve.x, [f'{v:g}' for v in curve.x])
            ax.minorticks_off()
        # an interval of a mean may leave the scale, an accuracy cannot
        ax.set_ylim(max(0.0, ax.get_ylim()[0]), min(101.0, ax.get_ylim()[1]))
        ax.set(
            title=curve.dataset,
            xlabel='training samples' if samples else 'wrong training labels (%)',
            ylabel='accuracy (%)',
        )
    axes[0][0].legend(fontsize=7)
    return save_figure(figure, out)


def plot_ranking(ranking: Ranking, titles: Mapping[str, str], out: str | Path) -> list[Path]:
    """Critical-difference diagram: mean ranks on an axis, bars join what Nemenyi cannot tell."""
    return save_figure(ranking_figure(ranking, titles), out)


def ranking_figure(ranking: Ranking, titles: Mapping[str, str]) -> Figure:
    """See :func:`plot_ranking`."""
    k = len(ranking.names)
    bars = cliques(ranking.ranks, ranking.critical)
    half = -(-k // 2)
    top = 0.55 + 0.3 * len(bars)
    depth = top + 0.5 * half
    figure, axes = new_figure(1, 1, width=7.0, height=0.9 + 0.36 * depth)
    ax = axes[0][0]
    ax.set_axis_off()
    low, high = 1.0, float(k)
    margin = 0.45 * (high - low)
    ax.set_xlim(low - margin, high + margin)
    ax.set_ylim(-depth - 0.3, 1.4)
    ax.plot([low, high], [0, 0], color='black', linewidth=1)
    for tick in range(1, k + 1):
        ax.plot([tick, tick], [0, 0.15], color='black', linewidth=1)
        ax.text(tick, 0.22, str(tick), ha='center', va='bottom', fontsize=8)
    end = min(low + ranking.critical, high + margin)
    ax.plot([low, end], [1.05, 1.05], color='black', linewidth=1.5)
    ax.text(low, 1.12, f'critical difference {ranking.critical:.2f}', fontsize=8, va='bottom')
    for i, (first, last) in enumerate(bars):
        y = -0.3 - 0.3 * i
        ends = [ranking.ranks[first] - 0.04, ranking.ranks[last] + 0.04]
        ax.plot(ends, [y, y], color='black', linewidth=3, solid_capstyle='round')
    for i, (name, rank) in enumerate(zip(ranking.names, ranking.ranks, strict=True)):
        left = i < half
        y = -top - 0.5 * (i if left else k - 1 - i)
        edge = low - 0.05 * margin if left else high + 0.05 * margin
        ax.plot([rank, rank, edge], [0, y, y], color='#555555', linewidth=0.8)
        text = f'{titles.get(name, name)} {rank:.2f}'
        ax.text(
            edge,
            y,
            f'{text} ' if left else f' {text}',
            ha='right' if left else 'left',
            va='center',
            fontsize=8,
        )
    return figure
