"""The maths of the contribution metric W^m, as pure functions.

Source: reconstruction of CAL (arXiv 2510.26289); the paper's equations are not public. W^m is built
from an information quantity I(m) and a confidence D(m); a softmax turns the two into weights.

Coalitions of modalities are numbered by bit mask: bit ``i`` of the index is set where modality
``i`` (in sorted order of the names) is present. Index 0 is the empty coalition, ``2**M - 1`` all of
them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = [
    'CONFIDENCE_KINDS',
    'CoalitionPlan',
    'best_temperature',
    'check_enough',
    'coalition_masks',
    'coalition_plan',
    'coalition_values',
    'confidence',
    'contribution_weights',
    'counted_share',
    'dynamic_weights',
    'entropy_of',
    'information_from_values',
    'information_quantity',
    'redirected',
    'sampled_shapley_values',
    'sampling_error',
    'shapley_values',
    'share_in_training',
    'shares',
    'told_information',
]

DYNAMIC_RULES = ('contribution', 'uniform', 'inverse')
CONFIDENCE_KINDS = ('entropy', 'max_prob', 'true_class', 'margin', 'energy')


def coalition_masks(num_modalities: int, device: torch.device | None = None) -> Tensor:
    """Every coalition as a row of presence flags.

    Returns:
        bool [2**M, M]; row ``s``, column ``i`` is bit ``i`` of ``s``.
    """
    index = torch.arange(2**num_modalities, device=device)
    return (index[:, None] >> torch.arange(num_modalities, device=device)) & 1 == 1


@lru_cache(maxsize=32)
def _shapley_matrix(num_modalities: int) -> Tensor:
    """Float64 [M, 2**M]: phi = matrix @ v, with the weights |S|! (M - |S| - 1)! / M!."""
    m = num_modalities
    matrix = torch.zeros(m, 2**m, dtype=torch.float64)
    for s in range(2**m):
        size = s.bit_count()
        for i in range(m):
            if s >> i & 1:  # s is a coalition with i: gains v(s)
                weight = math.factorial(size - 1) * math.factorial(m - size)
                matrix[i, s] = weight / math.factorial(m)
            else:
                weight = math.factorial(size) * math.factorial(m - size - 1)
                matrix[i, s] = -weight / math.factorial(m)
    return matrix


def shapley_values(coalition_values: Tensor) -> Tensor:
    """Exact Shapley values of a game given by the value of every coalition.

    Args:
        coalition_values: [2**M, ...], index = bit mask over the modalities in sorted order.

    Returns:
        [M, ...], in the input's floating type (float32 for integers and for half precision). The
        sum over M equals ``coalition_values[-1] - coalition_values[0]``.

    Raises:
        ValueError: the leading size is not 2**M with M >= 1.

    Source: Shapley 1953; the classical weights.
    """
    size = coalition_values.shape[0] if coalition_values.ndim else 0
    m = max(size, 1).bit_length() - 1
    if m < 1 or 2**m != size:
        raise ValueError(
            f'coalition_values needs a leading size of 2**M with M >= 1, got the shape '
            f'{tuple(coalition_values.shape)}'
        )
    return _apply(_shapley_matrix(m), coalition_values)


@dataclass(frozen=True)
class CoalitionPlan:
    """Which coalitions to evaluate, and how their values make Shapley values.

    Attributes:
        masks: bool [S, M], the coalitions; the first is the empty one, the last is the grand one.
        matrix: float64 [M, S]; phi = matrix @ values. Its rows sum to zero and its columns give
            ``phi.sum() = v(all) - v(empty)`` exactly.
        pairs: float64 [P, M, S], one matrix per antithetic pair of orders; None where the plan is
            exact.
    """

    masks: Tensor
    matrix: Tensor
    pairs: Tensor | None = None

    @property
    def num_coalitions(self) -> int:
        """S."""
        return self.masks.shape[0]

    def shapley(self, values: Tensor) -> Tensor:
        """Values of the plan's coalitions [S, ...] -> Shapley values [M, ...]."""
        return _apply(self.matrix, values)

    def standard_error(self, values: Tensor) -> Tensor:
        """Standard error of ``shapley`` from the spread over the antithetic pairs, [M, ...]; zero
        if exact.
        """
        if self.pairs is None:
            return torch.zeros_like(self.shapley(values))
        each = torch.stack([_apply(matrix, values) for matrix in self.pairs])
        return each.std(dim=0, unbiased=True) / math.sqrt(len(each))


def _apply(matrix: Tensor, values: Tensor) -> Tensor:
    floating = values if values.dtype in (torch.float32, torch.float64) else values.float()
    flat = matrix.to(values.device) @ floating.double().reshape(values.shape[0], -1)
    return flat.to(floating.dtype).reshape(matrix.shape[0], *values.shape[1:])


@lru_cache(maxsize=32)
def coalition_plan(
    num_modalities: int, max_exact: int = 6, num_permutations: int = 32, seed: int = 0
) -> CoalitionPlan:
    """All 2**M coalitions for M <= ``max_exact``, else those along random orders in antithetic
    pairs.

    Args:
        num_modalities: M >= 1.
        max_exact: largest M that is enumerated.
        num_permutations: orders above that, rounded up to an even number, at least 4.
        seed: of the orders.

    Source: permutation sampling, Castro et al. 2009, with reversed orders as antithetic pairs.
    """
    m = num_modalities
    if m < 1:
        raise ValueError(f'num_modalities must be at least 1, got {m}')
    if m <= max_exact:
        return CoalitionPlan(coalition_masks(m), _shapley_matrix(m))
    if num_permutations < 4:
        raise ValueError(f'num_permutations must be at least 4, got {num_permutations}')
    generator = torch.Generator().manual_seed(seed)
    first = [torch.randperm(m, generator=generator) for _ in range((num_permutations + 1) // 2)]
    index: dict[tuple[bool, ...], int] = {(False,) * m: 0}
    steps = []
    for order in first:
        for o in (order, order.flip(0)):
            mask, row = [False] * m, [0]
            for i in o.tolist():
                mask[i] = True
                row.append(index.setdefault(tuple(mask), len(index)))
            steps.append((o.tolist(), row))
    full = index.pop((True,) * m)
    last = len(index)
    remap = [last if k == full else k - (k > full) for k in range(last + 1)]
    pairs = torch.zeros(len(first), m, last + 1, dtype=torch.float64)
    for number, (order_list, row) in enumerate(steps):
        for i, before, after in zip(order_list, row[:-1], row[1:], strict=True):
            pairs[number // 2, i, remap[after]] += 0.5
            pairs[number // 2, i, remap[before]] -= 0.5
    masks = torch.tensor([*index, (True,) * m])
    return CoalitionPlan(masks, pairs.mean(dim=0), pairs)


def sampled_shapley_values(
    value: Callable[[Tensor], Tensor],
    num_modalities: int,
    num_permutations: int = 32,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Shapley values from random orders (antithetic pairs), for many modalities.

    Args:
        value: bool masks [S, M] -> the coalitions' values [S, ...].
        num_modalities: M.
        num_permutations: orders, at least 4.
        seed: of the orders.

    Returns:
        ``(phi [M, ...], standard_error [M, ...])``; the sum of phi is exact for any number of
        orders.
    """
    plan = coalition_plan(num_modalities, 0, num_permutations, seed)
    values = value(plan.masks)
    return plan.shapley(values), plan.standard_error(values)


def entropy_of(log_probs: Tensor) -> Tensor:
    """Entropy of a distribution, in nats: ``[..., C] -> [...]``; zero probabilities count zero."""
    return torch.special.entr(log_probs.exp()).sum(dim=-1)


def coalition_values(log_probs: Tensor, log_prior: Tensor) -> Tensor:
    """Per-sample value of every coalition: log p_S(label) - log prior(label), in nats.

    Args:
        log_probs: [2**M, B], log-probability of the true class under each coalition; row 0 (the
            empty coalition) is
            ignored: knowing nothing means the prior.
        log_prior: [B], log-probability of the true class under the class prior.

    Returns:
        [2**M, B]; row 0 is exactly 0. Its mean over samples bounds I(Y; Z_S) from below (Barber and
        Agakov 2003).
    """
    values = log_probs - log_prior
    return torch.cat([torch.zeros_like(values[:1]), values[1:]])


def information_from_values(
    mean_values: Tensor, entropy: Tensor | float, plan: CoalitionPlan | None = None
) -> Tensor:
    """Shapley values of the mean coalition values, each bounded from below by -H(Y).

    The bound matters because a confident wrong prediction makes the log-likelihood unbounded below.

    Args:
        mean_values: [S, ...] nats, mean over samples.
        entropy: H(Y) of the class prior, nats.
        plan: which coalitions the rows are; by default all 2**M.

    Returns:
        [M, ...] nats; the sum over M equals the bounded value of the grand coalition.
    """
    bounded = _bounded(mean_values, entropy)
    return shapley_values(bounded) if plan is None else plan.shapley(bounded)


def sampling_error(mean_values: Tensor, entropy: Tensor | float, plan: CoalitionPlan) -> Tensor:
    """Standard error of :func:`information_from_values` that comes of drawing the orders, [M, ...]
    nats; zero where the plan is exact.
    """
    return plan.standard_error(_bounded(mean_values, entropy))


def _bounded(values: Tensor, entropy: Tensor | float) -> Tensor:
    floor = -torch.as_tensor(entropy, dtype=values.dtype, device=values.device)
    return torch.maximum(values, floor.expand_as(values))


def information_quantity(
    log_probs: Tensor,
    log_prior: Tensor,
    entropy: Tensor | float | None = None,
    normalize: bool = False,
) -> Tensor:
    """Information quantity I(m): Shapley value of modality m in the information game.

    Args:
        log_probs: [2**M, B], log-probability of the true class under each coalition.
        log_prior: [B], log-probability of the true class under the class prior.
        entropy: H(Y) of the class prior, nats; by default the mean of ``-log_prior``.
        normalize: divide by H(Y).

    Returns:
        [M], nats (or a share of H(Y)); the sum over M is v(all) after bounding at -H(Y).

    Source: reconstruction of CAL; the paper's equation is not public.
    """
    h = -log_prior.mean() if entropy is None else torch.as_tensor(entropy).to(log_probs)
    information = information_from_values(coalition_values(log_probs, log_prior).mean(dim=1), h)
    return information / h.clamp_min(1e-12) if normalize else information


def confidence(logits: Tensor, kind: str = 'entropy', labels: Tensor | None = None) -> Tensor:
    """Confidence D of a prediction, in [0, 1].

    Args:
        logits: [..., C], C >= 2.
        kind: ``entropy`` 1 - H(softmax) / log C; ``max_prob`` the largest probability;
            ``true_class`` the probability of the label; ``margin`` the two largest probabilities'
            difference; ``energy`` sigmoid(logsumexp - log C), the share of evidence in a Dirichlet
            with evidence exp(logits).
        labels: int64 [...], needed by ``true_class``.

    Returns:
        [...], float32 or float64.

    Raises:
        ValueError: unknown kind, fewer than two classes, or labels missing.

    Source: reconstruction of CAL; the paper's equation is not public.
    """
    num_classes = logits.shape[-1]
    if num_classes < 2:
        raise ValueError(f'confidence needs at least 2 classes, got logits {tuple(logits.shape)}')
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if kind == 'energy':
        return torch.sigmoid(logits.logsumexp(dim=-1) - math.log(num_classes))
    log_probs = logits.log_softmax(dim=-1)
    if kind == 'entropy':
        return (1 - entropy_of(log_probs) / math.log(num_classes)).clamp(0, 1)
    if kind == 'max_prob':
        return log_probs.max(dim=-1).values.exp()
    if kind == 'margin':
        top = log_probs.exp().topk(2, dim=-1).values
        return top[..., 0] - top[..., 1]
    if kind == 'true_class':
        if labels is None:
            raise ValueError("confidence of kind 'true_class' needs labels")
        return log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1).exp()
    raise ValueError(f'unknown confidence kind {kind!r}; expected one of {CONFIDENCE_KINDS}')


def contribution_weights(
    information: Tensor,
    confidence: Tensor,
    lam: float = 0.5,
    tau: float = 0.5,
    combine: str = 'sum',
) -> Tensor:
    """Contribution weights W: softmax over modalities of a score built from I and D.

    Args:
        information: [..., M], normalised information quantity (a share of H(Y)).
        confidence: [..., M], in [0, 1].
        lam: share of the information in the score, in [0, 1].
        tau: temperature of the softmax, > 0.
        combine: ``sum``: lam * I + (1 - lam) * D; ``product``: I * D (``lam`` has no effect).

    Returns:
        [..., M], positive, sums to one.

    Source: reconstruction of CAL; the paper's equation is not public.
    """
    if not 0 <= lam <= 1:
        raise ValueError(f'lam must be in [0, 1], got {lam}')
    if not tau > 0:
        raise ValueError(f'tau must be positive, got {tau}')
    if combine == 'sum':
        score = lam * information + (1 - lam) * confidence
    elif combine == 'product':
        score = information * confidence
    else:
        raise ValueError(f"combine must be 'sum' or 'product', got {combine!r}")
    return torch.softmax(score / tau, dim=-1)


def dynamic_weights(
    information: Tensor,
    floor: float = 0.1,
    pivot: float = 0.1,
    share: float = 0.5,
    rule: str = 'contribution',
) -> Tensor:
    """How much of each modality's features enters the fusion: s_m in [floor, 1].

    s_m = floor + (1 - floor) c_m with c_m = clamp(I(m) / min(pivot, share max_k I(k)), 0, 1):
    whoever tells ``pivot`` of H(Y), or ``share`` of what the strongest tells, counts in full;
    whoever tells nothing counts ``floor``. Wrong labels, which make every I(m) small, hardly change
    it.

    Args:
        information: I_norm [..., M], a share of H(Y).
        floor: weight of a modality without information, in [0, 1]; 1 turns the rule off.
        pivot: I_norm that is enough to count in full, > 0.
        share: of the strongest modality's information that is enough, in (0, 1].
        rule: ``contribution``; the controls ``uniform`` (the same mean for all) and ``inverse``
            (the strongest gets the weakest's, and so on).

    Returns:
        [..., M]; ones where no modality has information.

    Raises:
        ValueError: an argument out of its range.

    Source: ours. The paper's abstract has W^m become dynamic weights; how is not public.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f'floor must be in [0, 1], got {floor}')
    check_enough(pivot, share)
    if rule not in DYNAMIC_RULES:
        raise ValueError(f'unknown rule {rule!r}; expected one of {DYNAMIC_RULES}')
    counts = share_in_training(information, pivot, share)
    return redirected(floor + (1 - floor) * counts, rule)


def check_enough(pivot: float, share: float | None, owner: str = '') -> None:
    """Refuse a ``pivot`` or ``share`` that :func:`counted_share` cannot take.

    Args:
        pivot, share: see there.
        owner: in front of the message.

    Raises:
        ValueError: out of range.
    """
    if not pivot > 0:
        raise ValueError(f'{owner}pivot must be positive, got {pivot}')
    if share is not None and not 0 < share <= 1:
        raise ValueError(f'{owner}share must be in (0, 1] or None, got {share}')


def counted_share(information: Tensor, pivot: float, share: float | None = None) -> Tensor:
    """c_m = clamp(I(m) / min(pivot, share max_k I(k)), 0, 1): 1 for who tells enough.

    Args:
        information: I_norm [..., M].
        pivot: I_norm that is enough, > 0.
        share: of the strongest modality's information that is enough as well; None: it is not.

    Returns:
        [..., M].
    """
    if share is None:
        return (information / pivot).clamp(0, 1)
    strongest = information.amax(dim=-1, keepdim=True)
    return (information / (share * strongest).clamp(1e-12, pivot)).clamp(0, 1)


def share_in_training(information: Tensor, pivot: float, share: float | None = None) -> Tensor:
    """c_m as :func:`counted_share`, but ones where no modality has information: nothing is known
    about any of them then, so none is held down.

    Args:
        information, pivot, share: see there.

    Returns:
        [..., M].
    """
    counts = counted_share(information, pivot, share)
    return torch.where(information.amax(dim=-1, keepdim=True) > 0, counts, torch.ones_like(counts))


def redirected(values: Tensor, rule: str) -> Tensor:
    """Controls of the same sum for a rule that gives every modality a value [..., M].

    Args:
        values: what the rule gives.
        rule: ``uniform``: the mean for all; ``inverse``: the values in the opposite order; any
            other leaves them.
    """
    if rule == 'uniform':
        return values.mean(dim=-1, keepdim=True).expand_as(values).clone()
    if rule == 'inverse':
        order = values.sort(dim=-1)
        return torch.zeros_like(values).scatter(-1, order.indices, order.values.flip(-1))
    return values


def shares(values: Tensor, present: Tensor | None = None) -> Tensor:
    """Non-negative values as shares of their sum over the modalities.

    Args:
        values: [B, M].
        present: bool [B, M], or None; an absent modality gets 0.

    Returns:
        [B, M], sums to one over the present modalities, which are equal where the sum is 0.
    """
    there = torch.ones_like(values) if present is None else present.to(values)
    kept = values * there
    total, least = kept.sum(dim=-1, keepdim=True), torch.finfo(kept.dtype).tiny
    equal = there / there.sum(dim=-1, keepdim=True).clamp_min(1)
    return torch.where(total < least, equal, kept / total.clamp_min(least))


def told_information(logits: Tensor, labels: Tensor, log_prior: Tensor) -> Tensor:
    """J: what a prediction was found to tell of the class, a share of H(Y).

    1 - (cross-entropy of the prediction) / (cross-entropy of the class prior). 0 for a prediction
    that is as good as the prior, below for one that misleads.

    Args:
        logits: calibrated, of samples that nothing was learnt from, [N, C].
        labels: int64 [N].
        log_prior: log class prior [C].

    Returns:
        [].

    Source: the information of one modality alone, v({m}) / H(Y), measured on its own head.
    """
    told = torch.nn.functional.cross_entropy(logits, labels)
    of_prior = -log_prior[labels].mean().to(told)
    return 1 - told / of_prior.clamp_min(1e-12)


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the smallest cross-entropy, from a grid over [0.1, 100].

    Args:
        logits: [N, C].
        labels: int64 [N].

    Source: temperature scaling, Guo et al. 2017.
    """
    grid = torch.logspace(-1, 2, 61, dtype=logits.dtype, device=logits.device)
    index = labels.unsqueeze(-1)
    nll = [-(logits / t).log_softmax(-1).gather(-1, index).mean() for t in grid]
    return float(grid[int(torch.stack(nll).argmin())])
