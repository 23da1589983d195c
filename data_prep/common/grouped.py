"""Validation parts that keep groups (scenes, videos, actors) whole."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, product

import numpy as np

__all__ = ['grouped_choice']

#: cost of a class that could be in the part and is not; above any difference in counts
_ABSENT = 1e9
#: tried at most between two moves; with so many groups single ones come near enough
_EXCHANGES = 200_000


def grouped_choice(
    labels: Sequence[int], groups: Sequence[Hashable], share: float, rng: np.random.Generator
) -> list[int]:
    """Rows of whole groups that hold about ``share`` of every class.

    Minimises the sum over classes of (count - target)^2 / target by a local search: groups in a
    drawn order are put in, taken out or exchanged as long as that lowers the cost. A class with two
    groups or more is in both parts; a class with a single group stays out (in training).

    Args:
        labels: class of each row.
        groups: group of each row.
        share: of the rows, in (0, 1).
        rng: source of the order. The order of the rows does not matter.

    Returns:
        Sorted rows.

    Raises:
        ValueError: ``share`` is out of range, or no group can be spared.
    """
    if not 0 < share < 1:
        raise ValueError(f'the share must lie in (0, 1), got {share}')
    counts: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        counts[group][label] += 1
    names = sorted(counts, key=str)
    order = [names[i] for i in rng.permutation(len(names))]
    chosen = _search(order, counts, share)
    if not chosen:
        raise ValueError(
            f'no validation part can be made of {len(names)} groups: every class needs a second '
            'group'
        )
    return [i for i, group in enumerate(groups) if group in chosen]


def _search(
    order: list[Hashable], counts: dict[Hashable, Counter[int]], share: float
) -> set[Hashable]:
    total: Counter[int] = Counter()
    holders: Counter[int] = Counter()  # groups that have the class
    for group in order:
        total.update(counts[group])
        holders.update(counts[group].keys())

    def cost(have: Counter[int], kept: Counter[int]) -> float:
        value = 0.0
        for label, count in total.items():
            target = share * count
            value += (have[label] - target) ** 2 / target
            if kept[label] == holders[label] or (kept[label] == 0 and holders[label] > 1):
                value += _ABSENT
        return value

    chosen: set[Hashable] = set()
    have, kept = Counter[int](), Counter[int]()
    best = cost(have, kept)
    improved = True
    while improved:
        improved = False
        for move in _moves(order, chosen, counts):
            trial_have, trial_kept = have.copy(), kept.copy()
            for group in move:
                sign = -1 if group in chosen else 1
                for label, count in counts[group].items():
                    trial_have[label] += sign * count
                    trial_kept[label] += sign
            value = cost(trial_have, trial_kept)
            if value < best - 1e-9:
                best, have, kept, improved = value, trial_have, trial_kept, True
                chosen ^= set(move)
                break
    return chosen


def _moves(
    order: list[Hashable], chosen: set[Hashable], counts: Mapping[Hashable, Counter[int]]
) -> Iterator[tuple[Hashable, ...]]:
    """Single groups in or out first, then exchanges of one that is in for one that is out.

    Of groups with the same counts the first stands for all, whose moves cost the same.
    """
    inside = _distinct((g for g in order if g in chosen), counts)
    outside = _distinct((g for g in order if g not in chosen), counts)
    of_both = {*inside, *outside}
    yield from ((g,) for g in order if g in of_both)
    yield from islice(product(inside, outside), _EXCHANGES)


def _distinct(
    groups: Iterable[Hashable], counts: Mapping[Hashable, Counter[int]]
) -> list[Hashable]:
    """The first group of each distribution over the classes."""
    found: dict[frozenset[tuple[int, int]], Hashable] = {}
    for group in groups:
        found.setdefault(frozenset(counts[group].items()), group)
    return list(found.values())
