"""From out-of-fold predictions to a contribution estimate: shared by the pilot and the ridge
source.
"""

from typing import Any

import torch
from torch import Tensor

from cal_mm.datasets import column_of, needed_column
from cal_mm.models.contribution import ContributionEstimate, ContributionTracker
from cal_mm.models.contribution.functional import (
    CoalitionPlan,
    coalition_plan,
    confidence,
    entropy_of,
    information_from_values,
    sampling_error,
)

from .base import ContributionSource

#: of the temperature scaling
TEMPERATURES = torch.logspace(-1, 2, 25).tolist()

__all__ = ['CrossFittedSource', 'estimate_from_predictions', 'make_folds']


def make_folds(labels: Tensor, groups: list[str] | None, num_folds: int, seed: int) -> Tensor:
    """A fold for every sample, balanced over classes; samples of one group stay in one fold.

    Args:
        labels: int64 [N].
        groups: one name per sample (actor, scene, video), or None.
        num_folds: at least 2.
        seed: of the shuffle.

    Returns:
        int64 [N], in [0, num_folds).
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if num_folds < 2:
        raise ValueError(f'a contribution source needs at least 2 folds, got {num_folds}')
    if len(labels) < 2 * num_folds:
        raise ValueError(
            f'{len(labels)} training samples are too few for {num_folds} folds; use '
            f"model.contribution.source='train'"
        )
    distinct = len(set(groups)) if groups else 0
    y = labels.cpu().numpy()
    smallest = int(labels.bincount()[labels.bincount() > 0].min())
    if groups and num_folds <= distinct < len(labels):
        splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
        parts = splitter.split(y, y, groups)
    elif smallest >= num_folds:
        parts = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(y, y)
    else:  # a class with fewer samples than folds
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(labels), generator=generator) % num_folds
    folds = torch.zeros(len(labels), dtype=torch.int64)
    for number, (_, held_out) in enumerate(parts):
        folds[torch.from_numpy(held_out)] = number
    return folds


class _Calibrated:
    """Mean coalition values and confidences at temperatures that are fitted across folds, for any
    subset of samples.

    Everything is tabulated over a grid of temperatures once, so that the jackknife can fit them
    anew without each block.
    """

    def __init__(
        self,
        plan: CoalitionPlan,
        coalitions: Tensor,
        unimodal: Tensor,
        labels: Tensor,
        folds: Tensor,
        own: Tensor,
    ) -> None:
        self.folds, self.own, self.grid = folds, own, TEMPERATURES
        self.empty = ~plan.masks.any(dim=1)
        self.nll = torch.stack([_nll(coalitions / t, labels) for t in self.grid])  # [T, S, N]
        self.nll_alone = torch.stack([_nll(unimodal / t, labels) for t in self.grid])  # [T, M, N]
        self.confidence = torch.stack([confidence(unimodal / t) for t in self.grid])

    def posteriors(self, logits: Tensor, row: int) -> Tensor:
        """Probabilities [N, C] of the coalition in row ``row``, whose logits are [N, C], at the
        temperature that fits the other folds.
        """
        out = torch.zeros_like(logits)
        for fold in self.folds.unique():
            score, others = self.folds == fold, self.folds != fold
            best = _best_temperatures(self.nll, others)[row]
            out[score] = (logits[score] / self.grid[best]).softmax(dim=-1)
        return out

    def means(self, keep: Tensor, fit: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Coalition values [S] and confidences [M] over the samples ``keep``; temperatures from
        ``fit``.
        """
        fit = keep if fit is None else fit
        values, conf = [], []
        for fold in self.folds.unique():
            score, others = keep & (self.folds == fold), fit & (self.folds != fold)
            if not score.any() or not others.any():
                continue
            values.append(-_at_best(self.nll, self.nll, others, score) - self.own[score])
            conf.append(_at_best(self.nll_alone, self.confidence, others, score))
        mean = torch.cat(values, dim=1).double().mean(dim=1)
        mean[self.empty] = 0
        return mean, torch.cat(conf, dim=1).double().mean(dim=1)


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    index = labels.expand(logits.shape[0], -1).unsqueeze(-1)
    return -logits.log_softmax(dim=-1).gather(-1, index).squeeze(-1)


def _best_temperatures(nll: Tensor, fit: Tensor) -> Tensor:
    """Index [R] of the temperature at which each row of ``nll`` [T, R, N] is least on ``fit``."""
    return nll[:, :, fit].mean(dim=-1).argmin(dim=0)


def _at_best(nll: Tensor, table: Tensor, fit: Tensor, score: Tensor) -> Tensor:
    """Rows of ``table`` [T, R, N] at each row's best temperature on ``fit``, for the samples
    ``score``.
    """
    best = _best_temperatures(nll, fit)
    return table[best, torch.arange(table.shape[1])][:, score]


def estimate_from_predictions(
    tracker: ContributionTracker,
    plan: CoalitionPlan,
    coalition_logits: Tensor,
    unimodal_logits: Tensor,
    labels: Tensor,
    folds: Tensor,
    log_prior: Tensor,
    seed: int = 0,
    fallback: bool = True,
    groups: list[str] | None = None,
) -> ContributionEstimate:
    """I, D and W with their uncertainty, from predictions on samples that their predictor never
    saw.

    Logits are calibrated across folds first (temperature). W's standard error is the larger of two:
    over the folds, and a jackknife over 20 blocks of samples (of groups, where the samples have
    them), which also fits the temperatures anew. Where the strongest and the weakest modality
    differ by less than two standard errors, W falls back to uniform and I to its mean: a wrong W
    costs far more than none.

    Args:
        tracker: combines I and D into W.
        plan: the coalitions.
        coalition_logits: [S, N, C] in the plan's order (the empty coalition's row is ignored).
        unimodal_logits: [M, N, C].
        labels: int64 [N].
        folds: int64 [N].
        log_prior: [C].
        seed: of the jackknife's blocks.
        fallback: fall back to uniform when the modalities do not differ.
        groups: as of :func:`make_folds`; samples of one group stay in one block.

    Returns:
        Its ``details`` have the ``sampling_error`` of I where Shapley values are sampled.
    """
    entropy = entropy_of(log_prior)
    own = log_prior[labels].float()
    tables = _Calibrated(
        plan, coalition_logits.float(), unimodal_logits.float(), labels, folds, own
    )

    def weights_of(keep: Tensor, fit: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        values, conf = tables.means(keep, fit)
        information = information_from_values(values, entropy, plan) / entropy
        return information, conf, tracker.combined(information, conf)

    def weights_without(block: Tensor) -> Tensor:
        keep = ~block
        # a block of groups may be all of the other folds, and something must fit the temperatures
        return weights_of(keep, None if len(folds[keep].unique()) > 1 else everything)[2]

    everything = torch.ones_like(labels, dtype=torch.bool)
    information, mean_conf, weights = weights_of(everything)
    per_fold = torch.stack([weights_of(folds == f, everything)[2] for f in folds.unique()])
    blocks = _blocks(len(labels), groups, seed)
    per_block = torch.stack([weights_without(blocks == b) for b in blocks.unique()])
    error = _standard_error(per_fold, per_block)
    strong, weak = int(weights.argmax()), int(weights.argmin())
    gap = weights[strong] - weights[weak]
    gap_error = _standard_error(
        per_fold[:, strong] - per_fold[:, weak], per_block[:, strong] - per_block[:, weak]
    )
    undecided = bool(gap < 2 * gap_error) and len(weights) > 1
    details = {
        'information': information.tolist(),
        'confidence': mean_conf.tolist(),
        'weights': weights.tolist(),
        'gap': float(gap),
        'gap_standard_error': float(gap_error),
        'undecided': undecided,
    }
    if plan.pairs is not None:
        error_of_i = sampling_error(tables.means(everything)[0], entropy, plan) / entropy
        details['sampling_error'] = error_of_i.tolist()
    if undecided and fallback:
        weights = torch.full_like(weights, 1 / len(weights))
        information = information.mean().expand_as(information).clone()
    everyone = int(plan.masks.all(dim=1).nonzero()[0])
    posteriors = tables.posteriors(coalition_logits[everyone].float(), everyone)
    return ContributionEstimate(information, mean_conf, weights, error, details, posteriors)


def _blocks(count: int, groups: list[str] | None, seed: int) -> Tensor:
    """A block for every sample, int64 [N], 20 at most, drawn over the distinct groups."""
    numbers = {g: i for i, g in enumerate(dict.fromkeys(groups or ()))}
    if groups is None or len(numbers) < 2:
        member, number = torch.arange(count), count
    else:
        member, number = torch.tensor([numbers[g] for g in groups]), len(numbers)
    generator = torch.Generator().manual_seed(seed)
    return (torch.randperm(number, generator=generator) % min(20, number))[member]


def _groups(dataset: Any) -> list[str] | None:
    """What must stay in one fold: samples of one group, and the same sample repeated."""
    groups, ids = column_of(dataset, 'groups'), column_of(dataset, 'sample_ids')
    if groups is None or ids is None:
        known = groups if ids is None else ids
        return None if known is None else [str(v) for v in known]
    return [str(group) or f'sample {i}' for group, i in zip(groups, ids, strict=True)]


def _standard_error(per_fold: Tensor, per_block: Tensor) -> Tensor:
    """Larger of the error over folds and the jackknife's: leading axis folds or blocks."""
    over_folds = per_fold.std(dim=0, unbiased=True) / len(per_fold) ** 0.5
    g = len(per_block)
    centred = per_block - per_block.mean(dim=0)
    jackknife = ((g - 1) / g * centred.square().sum(dim=0)).sqrt()
    return torch.maximum(over_folds, jackknife)


class CrossFittedSource(ContributionSource):
    """Base of the sources that predict every training sample with a predictor that never saw it.

    Args:
        folds: K >= 2. Samples with one ``group`` stay in one fold.
        seed: of the folds.
        fallback: fall back to uniform W when the modalities do not differ by two standard errors.
    """

    def __init__(self, folds: int, seed: int, fallback: bool) -> None:
        self.folds = folds
        self.seed = seed
        self.fallback = fallback

    def predict(
        self, runner: Any, model: Any, labels: Tensor, folds: Tensor, plan: CoalitionPlan
    ) -> tuple[Tensor, Tensor]:
        """Out-of-fold logits of the plan's coalitions [S, N, C] and of each modality [M, N, C]."""
        raise NotImplementedError

    def measure(self, runner: Any, model: Any) -> ContributionEstimate:
        """See the class."""
        dataset = runner.train_dataloader.dataset
        why = f'{type(self).__name__} splits the training samples into folds and needs their labels'
        instead = "use model.contribution.source='train'"
        known = needed_column(dataset, 'labels', why, instead)
        labels = torch.as_tensor(known, dtype=torch.int64)
        groups = _groups(dataset)
        folds = make_folds(labels, groups, self.folds, self.seed)
        plan = coalition_plan(len(model.modalities))
        coalitions, unimodal = self.predict(runner, model, labels, folds, plan)
        return estimate_from_predictions(
            model.contribution,
            plan,
            coalitions,
            unimodal,
            labels,
            folds,
            model.class_log_prior.cpu().double(),
            self.seed,
            self.fallback,
            groups,
        )
