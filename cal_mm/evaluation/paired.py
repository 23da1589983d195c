"""Paired comparison of two models, condition by condition: McNemar, bootstrap, Holm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .pairs import ConditionPair
from .resampled import statistic_over_seeds
from .statistics import (
    FEW_GROUPS,
    Difference,
    McNemar,
    group_numbers,
    holm,
    mcnemar,
    paired_bootstrap,
    smallest_p_value,
)
from .summary import higher_is_better

__all__ = ['Comparison', 'compare_pairs', 'plain_summary']

_ACCURACY = 'accuracy/top1'
_NAMED = 4


@dataclass(frozen=True)
class Comparison:
    """One condition and one metric.

    Attributes:
        condition: its name.
        protocol: noise protocol, or None.
        seeds: noise seeds; empty for clean.
        metric: key of the metric.
        num_samples: N.
        num_groups: of the samples, that were resampled as wholes; None where each was by itself.
        difference: second minus first, interval not corrected for the number of conditions.
        p_holm: bootstrap p-value, Holm-corrected over the conditions.
        mcnemar: exact test of accuracy; None for other metrics, and where samples depend on each
            other (``groups`` of the data): the test takes them to be independent.
        mcnemar_holm: its p-value, Holm-corrected over the conditions.
        better: 'first', 'second' or None: which is better once corrected.
    """

    condition: str
    protocol: str | None
    seeds: tuple[int, ...]
    metric: str
    num_samples: int
    num_groups: int | None
    difference: Difference
    p_holm: float
    mcnemar: McNemar | None
    mcnemar_holm: float | None
    better: str | None

    def record(self) -> dict[str, Any]:
        """As plain values, for JSON and CSV."""
        d, test = self.difference, self.mcnemar
        return {
            'metric': self.metric,
            'condition': self.condition,
            'protocol': self.protocol,
            'seeds': len(self.seeds),
            'num_samples': self.num_samples,
            'num_groups': self.num_groups,
            'first': d.first,
            'second': d.second,
            'difference': d.value,
            'low': d.low,
            'high': d.high,
            'p': d.p,
            'p_holm': self.p_holm,
            'first_only_right': None if test is None else test.first_only,
            'second_only_right': None if test is None else test.second_only,
            'p_mcnemar': None if test is None else test.p,
            'p_mcnemar_holm': self.mcnemar_holm,
            'better': self.better,
        }


def _right(side: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    return np.stack([p['predicted'] == p['labels'] for p in side], axis=1)


def _better(metric: str, difference: Difference, tests: Sequence[bool]) -> str | None:
    up = higher_is_better(metric)
    if not all(tests) or up is None or difference.value == 0:
        return None
    return 'second' if (difference.value > 0) == up else 'first'


def _agrees(test: McNemar, difference: Difference) -> bool:
    """Whether the samples' majority and the mean point the same way (with seeds they need not)."""
    return (test.second_only - test.first_only) * difference.value > 0


def compare_pairs(
    pairs: Sequence[ConditionPair],
    metrics: Sequence[str] = (_ACCURACY,),
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Comparison]:
    """Second against first model under each condition; metric by metric.

    All conditions and metrics see the same resamples of the samples. Accuracy is decided by the
    exact McNemar test, every other metric by the paired bootstrap; p-values are Holm-corrected
    over the conditions of a metric. Where the predictions have groups, whole groups are resampled
    and the bootstrap decides on accuracy too.

    Args:
        pairs: as :func:`cal_mm.evaluation.pairs.pair_conditions` gives them.
        metrics: of :data:`cal_mm.evaluation.resampled.RESAMPLED_METRICS`, or ``accuracy/topK``.
        resamples: of the bootstrap.
        seed: of the resamples.
        level: of the intervals; 1 - level is where a corrected p-value is significant.

    Raises:
        ValueError: a metric that cannot be computed from predictions.
    """
    n = len(pairs[0].first[0]['labels'])
    # files from before there were groups have none
    names = pairs[0].first[0].get('groups', pairs[0].second[0].get('groups'))
    groups = None if names is None else group_numbers(names.tolist())
    first = [statistic_over_seeds(m, p.first) for m in metrics for p in pairs]
    second = [statistic_over_seeds(m, p.second) for m in metrics for p in pairs]
    differences = paired_bootstrap(first, second, n, resamples, level, seed, groups)
    tests = [mcnemar(_right(p.first), _right(p.second)) for p in pairs]
    exact = holm([t.p for t in tests])
    found = []
    for k, metric in enumerate(metrics):
        mine = differences[k * len(pairs) : (k + 1) * len(pairs)]
        corrected = holm([d.p for d in mine])
        for pair, d, p_holm, test, p_exact in zip(
            pairs, mine, corrected, tests, exact, strict=True
        ):
            is_accuracy = metric == _ACCURACY and groups is None
            alpha = 1 - level
            proof = [p_exact < alpha, _agrees(test, d)] if is_accuracy else [p_holm < alpha]
            found.append(
                Comparison(
                    condition=pair.condition,
                    protocol=pair.protocol,
                    seeds=pair.seeds,
                    metric=metric,
                    num_samples=n,
                    num_groups=None if groups is None else int(groups.max()) + 1,
                    difference=d,
                    p_holm=p_holm,
                    mcnemar=test if is_accuracy else None,
                    mcnemar_holm=p_exact if is_accuracy else None,
                    better=_better(metric, d, proof),
                )
            )
    return found


def plain_summary(
    comparisons: Sequence[Comparison],
    labels: Sequence[str],
    resamples: int,
    level: float = 0.95,
) -> list[str]:
    """A sentence or two per metric: what is and what is not significant.

    Args:
        comparisons: of :func:`compare_pairs`.
        labels: names of the first and the second model.
        resamples: that were drawn, to say where they are too few to tell anything.
        level: as given to :func:`compare_pairs`.
    """
    first, second = labels
    lines = []
    for metric in dict.fromkeys(c.metric for c in comparisons):
        mine = [c for c in comparisons if c.metric == metric]
        up = [c for c in mine if c.better == 'second']
        down = [c for c in mine if c.better == 'first']
        rest = len(mine) - len(up) - len(down)
        exact = mine[0].mcnemar is not None
        test = 'exact McNemar' if exact else 'paired bootstrap'
        many = f', Holm-corrected over {len(mine)} conditions' if len(mine) > 1 else ''
        head = f'{metric} ({test}{many}, {100 * (1 - level):g} % level): '
        if not up and not down:
            where = 'any of them' if len(mine) > 1 else mine[0].condition
            lines.append(
                head + f'no significant difference between {first} and {second} in {where}. That '
                f'is no proof that they are alike: see the intervals.'
            )
        else:
            parts = []
            for name, other, won in ((second, first, up), (first, second, down)):
                if won:
                    parts.append(f'{name} is significantly better than {other} in {_listed(won)}')
            if rest:
                parts.append(f'no significant difference in the other {rest}')
            lines.append(head + '; '.join(parts) + '.')
        groups = mine[0].num_groups
        if groups is not None and groups < FEW_GROUPS:
            lines.append(
                f'{metric}: the samples come in {groups} groups. No p-value can be below '
                f'{2.0 ** (1 - groups):.2g}, and with fewer than {FEW_GROUPS} groups a '
                f'bootstrap is too sure of itself.'
            )
        if not exact and smallest_p_value(resamples) * len(mine) >= 1 - level:
            lines.append(
                f'{metric}: with {resamples} resamples and {len(mine)} conditions no corrected '
                f'p-value can be below {1 - level:.2g}; raise --resamples.'
            )
    return lines


def _listed(won: Sequence[Comparison]) -> str:
    names = [c.condition for c in won]
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    noun = 'condition' if len(names) == 1 else 'conditions'
    return f'{len(names)} {noun} ({", ".join(names[:_NAMED])}{more})'
