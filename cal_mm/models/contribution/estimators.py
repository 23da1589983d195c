"""Registered estimators of information quantity I(m) and confidence D(m).

An estimator reads a ``ForwardState`` and gives [B, M], one value per sample and modality. For the
batch-level value, ``statistics`` [B, K] are averaged over micro-batches and ranks first and
``summarise`` turns the mean into [M]: that keeps W independent of how a batch is split, also where
the maths is not linear.

Source: reconstruction of CAL (arXiv 2510.26289); the paper's equations are not public.
"""

import torch
from torch import Tensor, nn

from cal_mm.models.state import ForwardState
from cal_mm.registry import CONTRIBUTIONS

from .functional import (
    CONFIDENCE_KINDS,
    CoalitionPlan,
    coalition_masks,
    coalition_plan,
    coalition_values,
    confidence,
    entropy_of,
    information_from_values,
    sampling_error,
    shapley_values,
)

__all__ = [
    'Confidence',
    'ContributionEstimator',
    'LearningPotential',
    'LeaveOneOutInformation',
    'ShapleyAccuracy',
    'ShapleyInformation',
    'UnimodalInformation',
]


class ContributionEstimator(nn.Module):
    """Base: override ``forward``; override the other two where the mean is not enough."""

    needs_labels = False

    def forward(self, state: ForwardState) -> Tensor:
        """Per-sample values, [B, M], float32, no gradient needed."""
        raise NotImplementedError

    def statistics(self, state: ForwardState) -> Tensor:
        """What is averaged over the samples of an update: [B, K]."""
        return self(state)

    def summarise(self, mean: Tensor, log_prior: Tensor) -> Tensor:
        """Mean statistics [K] and log class prior [C] to the batch-level value [M]."""
        return mean


def _label_log_prior(state: ForwardState) -> Tensor:
    return state.log_prior[state.known_labels]


def _of_present(values: Tensor, state: ForwardState) -> Tensor:
    """``values`` [B, M], 0 for a missing modality."""
    return values if state.present is None else values * state.present


@CONTRIBUTIONS.register_module()
class ShapleyInformation(ContributionEstimator):
    """Shapley value of a modality in the information game, as a share of H(Y).

    v(S) = mean of log p_S(label) - log prior(label), bounded from below by -H(Y). Exact for M <=
    ``max_exact`` (all 2^M coalitions of features as one stacked batch through the fusion); above
    that, ``num_permutations`` random orders.

    Args:
        max_exact: largest M that is enumerated.
        num_permutations: orders above that.
        seed: of the orders.
    """

    needs_labels = True

    def __init__(self, max_exact: int = 6, num_permutations: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.max_exact = max_exact
        self.num_permutations = num_permutations
        self.seed = seed
        self._num_modalities = 0
        #: of the last value of ``summarise``, [M]; None where all coalitions are evaluated
        self.sampling_error: Tensor | None = None

    def plan(self, num_modalities: int) -> CoalitionPlan:
        """The coalitions that are evaluated for M modalities."""
        return coalition_plan(num_modalities, self.max_exact, self.num_permutations, self.seed)

    def _values(self, state: ForwardState) -> Tensor:
        masks = self.plan(len(state.modalities)).masks.to(state.logits.device)
        log_probs = state.log_likelihood(state.coalition_logits(masks))
        return coalition_values(log_probs, _label_log_prior(state))

    def forward(self, state: ForwardState) -> Tensor:
        """[B, M]; each sample's values are bounded on their own."""
        entropy = entropy_of(state.log_prior)
        plan = self.plan(len(state.modalities))
        return (information_from_values(self._values(state), entropy, plan) / entropy).T

    def statistics(self, state: ForwardState) -> Tensor:
        """The coalitions' values, [B, S]."""
        self._num_modalities = len(state.modalities)
        return self._values(state).T

    def summarise(self, mean: Tensor, log_prior: Tensor) -> Tensor:
        """[M], a share of H(Y)."""
        entropy, plan = entropy_of(log_prior).to(mean), self.plan(self._num_modalities)
        if plan.pairs is not None:
            self.sampling_error = sampling_error(mean, entropy, plan) / entropy
        return information_from_values(mean, entropy, plan) / entropy


@CONTRIBUTIONS.register_module()
class LeaveOneOutInformation(ContributionEstimator):
    """log p_all(label) - log p_(all but m)(label), as a share of H(Y)."""

    needs_labels = True

    def forward(self, state: ForwardState) -> Tensor:
        """[B, M]."""
        m = len(state.modalities)
        full = torch.ones(1, m, dtype=torch.bool, device=state.logits.device)
        without = ~torch.eye(m, dtype=torch.bool, device=state.logits.device)
        log_probs = state.log_likelihood(state.coalition_logits(torch.cat([full, without])))
        if m == 1:  # nothing is left: the prior
            log_probs[1] = _label_log_prior(state)
        gain = (log_probs[:1] - log_probs[1:]).T
        return gain / entropy_of(state.log_prior)


@CONTRIBUTIONS.register_module()
class UnimodalInformation(ContributionEstimator):
    """log softmax(u_m)(label) - log prior(label), as a share of H(Y); the mean is bounded at -1.

    0 for a missing modality.
    """

    needs_labels = True

    def forward(self, state: ForwardState) -> Tensor:
        """[B, M]."""
        prior = _label_log_prior(state)
        values = torch.stack(
            [state.log_likelihood(state.mean_unimodal_logits(m)) - prior for m in state.modalities],
            dim=1,
        )
        return _of_present(values / entropy_of(state.log_prior), state)

    def summarise(self, mean: Tensor, log_prior: Tensor) -> Tensor:
        """[M]."""
        return mean.clamp_min(-1)


@CONTRIBUTIONS.register_module()
class ShapleyAccuracy(ContributionEstimator):
    """Shapley value in the accuracy game; the empty coalition predicts the most frequent class.

    As a share of what can be gained over it.
    """

    needs_labels = True

    def forward(self, state: ForwardState) -> Tensor:
        """[B, M]."""
        masks = coalition_masks(len(state.modalities), state.logits.device)
        correct = (state.coalition_logits(masks).argmax(dim=-1) == state.known_labels).float()
        correct[0] = (state.log_prior.argmax() == state.known_labels).float()
        headroom = 1 - state.log_prior.max().exp()
        return shapley_values(correct).T / headroom.clamp_min(1e-6)


@CONTRIBUTIONS.register_module()
class Confidence(ContributionEstimator):
    """D(m): confidence of the unimodal prediction, in [0, 1]; 0 for a missing modality.

    Args:
        kind: ``entropy``, ``max_prob``, ``true_class``, ``margin`` or ``energy``, see
            ``functional.confidence``.
    """

    def __init__(self, kind: str = 'entropy') -> None:
        super().__init__()
        if kind not in CONFIDENCE_KINDS:
            raise ValueError(
                f'unknown confidence kind {kind!r}; expected one of {CONFIDENCE_KINDS}'
            )
        self.kind = kind
        self.needs_labels = kind == 'true_class'

    def forward(self, state: ForwardState) -> Tensor:
        """[B, M]."""
        values = torch.stack(
            [
                confidence(state.mean_unimodal_logits(m).float(), self.kind, state.labels)
                for m in state.modalities
            ],
            dim=1,
        )
        return _of_present(values, state)


@CONTRIBUTIONS.register_module()
class LearningPotential(ContributionEstimator):
    """D(m) as "dynamic potential": relative decrease of the unimodal loss over a window of updates.

    (slow average - fast average) / slow average of the unimodal cross-entropy, clamped to [0, 1].
    Before the first update it is 0. A missing modality adds nothing to either average.
    Stateful: the averages move once per update, in ``summarise``.

    Args:
        window: updates of the slow average; the fast one has a fifth of it.
    """

    needs_labels = True

    def __init__(self, window: int = 100) -> None:
        super().__init__()
        if window < 5:
            raise ValueError(f'LearningPotential: window must be at least 5 updates, got {window}')
        self.window = window
        self.slow: Tensor
        self.fast: Tensor
        self.register_buffer('slow', torch.zeros(0))
        self.register_buffer('fast', torch.zeros(0))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        for name in ('slow', 'fast'):  # their size is known from the first update on
            if f'{prefix}{name}' in state_dict:
                shape = state_dict[f'{prefix}{name}'].shape
                setattr(self, name, getattr(self, name).new_zeros(shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _losses(self, state: ForwardState) -> Tensor:
        losses = -torch.stack(
            [state.log_likelihood(state.mean_unimodal_logits(m)) for m in state.modalities], dim=1
        )
        return _of_present(losses, state)

    def statistics(self, state: ForwardState) -> Tensor:
        """Unimodal cross-entropies, [B, M]."""
        return self._losses(state)

    def potential(self) -> Tensor:
        """The current value, [M]."""
        return ((self.slow - self.fast) / self.slow.clamp_min(1e-12)).clamp(0, 1)

    def summarise(self, mean: Tensor, log_prior: Tensor) -> Tensor:
        """Moves the averages and gives the potential, [M]."""
        mean = mean.float()
        if self.slow.numel() == 0:
            self.slow, self.fast = mean.clone(), mean.clone()
        else:
            self.slow = torch.lerp(self.slow, mean, 1 / self.window)
            self.fast = torch.lerp(self.fast, mean, 5 / self.window)
        return self.potential()

    def forward(self, state: ForwardState) -> Tensor:
        """[B, M]: the same value for every sample."""
        if self.slow.numel() == 0:
            return torch.zeros(state.batch_size, len(state.modalities), device=state.logits.device)
        return self.potential().expand(state.batch_size, -1)
