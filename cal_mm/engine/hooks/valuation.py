"""Sample-level valuation: what each modality contributes to each training sample.

Source: Wei et al., "Enhancing Multimodal Cooperation via Sample-level Modality Valuation",
CVPR 2024 (arXiv 2309.06255); thresholds from the public BalanceBenchmark.
"""

from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from cal_mm.datasets.valued_sampler import ValuedSampler
from cal_mm.models.contribution.functional import CoalitionPlan, coalition_plan
from cal_mm.registry import HOOKS
from cal_mm.wrapping import unwrap

from ..collect import collect_samples

__all__ = ['SampleValuationHook', 'extra_copies', 'sample_values']

STORED = 'sample_valuation'


def sample_values(coalitions: Tensor, labels: Tensor, plan: CoalitionPlan) -> Tensor:
    """Shapley value of every modality on every sample, v(S) = |S| if S predicts the label, else 0.

    Args:
        coalitions: fused logits [N, S, C] of the plan's coalitions.
        labels: int64 [N].
        plan: the coalitions.

    Returns:
        float64 [N, M]; 1 each where every coalition is right.
    """
    right = coalitions.argmax(dim=-1) == labels[:, None]
    size = plan.masks.sum(dim=1).to(right.device)
    value = (right * size).double()  # nothing for the empty coalition
    return plan.shapley(value.T).T


def extra_copies(values: Tensor) -> Tensor:
    """How often a sample is repeated for a modality of this value: 0 from 1 on, 1 from 0.4, 2 from
    -0.1, else 3.
    """
    copies = torch.full_like(values, 3)
    for bound, count in ((-0.1, 2), (0.4, 1), (1 - 1e-9, 0)):
        copies = torch.where(values >= bound, torch.full_like(values, count), copies)
    return copies


@HOOKS.register_module()
class SampleValuationHook(Hook):
    """Before an epoch: samples in which a modality contributes little are seen more often.

    The weight of a sample is 1 + sum_m :func:`extra_copies`; ``ValuedSampler`` draws by it. All
    samples are valued in evaluation mode, shared out over the ranks. The weights are in the
    checkpoint.

    Args:
        begin: epochs before which every sample counts the same.
        interval: epochs between valuations.
    """

    def __init__(self, begin: int = 1, interval: int = 1) -> None:
        if begin < 0 or interval < 1:
            raise ValueError(
                f'SampleValuationHook: need begin >= 0 and interval >= 1, got {begin}, {interval}'
            )
        self.begin, self.interval = begin, interval
        self._restored: Tensor | None = None

    def before_train(self, runner: Any) -> None:
        """Take over the weights of a checkpoint."""
        if self._restored is not None:
            _sampler(runner).set_weights(self._restored)

    def before_train_epoch(self, runner: Any) -> None:
        """Value every training sample with the weights that the epoch starts from."""
        sampler = _sampler(runner)
        if runner.epoch < self.begin or (runner.epoch - self.begin) % self.interval:
            return
        model = unwrap(runner.model)
        plan = coalition_plan(len(model.modalities))
        seen = collect_samples(model, runner.train_dataloader, masks=plan.masks)
        if seen.coalitions is None:
            raise RuntimeError('no coalitions were evaluated')
        values = sample_values(seen.coalitions, seen.labels, plan)
        copies = extra_copies(values) * seen.present  # what is missing needs no practice
        sampler.set_weights(1 + copies.sum(dim=1).float())
        for m, mean in zip(model.modalities, values.mean(dim=0).tolist(), strict=True):
            runner.message_hub.update_scalar(f'train/sample_value/{m}', mean)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """The weights go with it."""
        checkpoint[STORED] = _sampler(runner).weights

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """On resuming the weights come back."""
        if runner._resume and STORED in checkpoint:
            self._restored = checkpoint[STORED]


def _sampler(runner: Any) -> ValuedSampler:
    sampler = runner.train_dataloader.sampler
    if not isinstance(sampler, ValuedSampler):
        raise ValueError(
            f"SampleValuationHook needs train_dataloader.sampler=dict(type='ValuedSampler'), got "
            f'{type(sampler).__name__}'
        )
    return sampler
