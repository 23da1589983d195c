"""D&R: diagnose how well each modality's encoder has learned, and let it learn again.

Source: Wei et al., "Diagnosing and Re-learning for Balanced Multimodal Learning", ECCV 2024
(arXiv 2407.09705).
"""

from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from torch import Tensor

from cal_mm.registry import HOOKS
from cal_mm.structures import epochs_of
from cal_mm.wrapping import unwrap

from ..collect import Collected, collect_samples

__all__ = ['ReLearningHook', 'cluster_purity', 'purity_of_labels', 'relearning_weights']

STORED = 'relearning_start'


def purity_of_labels(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Share of samples that carry the most frequent label of their cluster."""
    right = 0
    for cluster in np.unique(clusters):
        right += np.unique(labels[clusters == cluster], return_counts=True)[1].max()
    return right / len(labels)


def cluster_purity(features: Tensor, labels: Tensor, num_classes: int) -> float:
    """Purity of C k-means clusters of the features, each dimension scaled to [-1, 1].

    Args:
        features: [N, H].
        labels: int64 [N].
        num_classes: C clusters, at most N.
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import MinMaxScaler

    x = MinMaxScaler(feature_range=(-1, 1)).fit_transform(features.double().cpu().numpy())
    count = min(num_classes, len(np.unique(x, axis=0)))
    clusters = KMeans(n_clusters=count, random_state=0, n_init=4).fit_predict(x)
    return purity_of_labels(labels.cpu().numpy(), clusters)


def relearning_weights(train: Tensor, val: Tensor, strength: float) -> Tensor:
    """a_m = tanh(strength |purity_train - purity_val|), in [0, 1): [M], [M] -> [M]."""
    return torch.tanh(strength * (train - val).abs())


@HOOKS.register_module()
class ReLearningHook(Hook):
    """Every ``interval`` epochs: theta_m <- a_m theta_m,0 + (1 - a_m) theta_m.

    theta_m are the trainable parameters of the modality's encoder and bottleneck, theta_0 those
    that training started from; they travel in the checkpoint. The purity gap between training and
    validation data says how much a modality has overfitted. Runs at the start of an epoch, so
    that what was validated and stored is the model before; never after the last epoch.

    Args:
        interval: epochs; a float in (0, 1) is a share of the run.
        times: how often at most.
        strength: lambda > 0.
        max_samples: samples of each split that are clustered, at most.
    """

    def __init__(
        self,
        interval: int | float = 20,
        times: int = 3,
        strength: float = 3.0,
        max_samples: int = 2000,
    ) -> None:
        if interval <= 0 or strength <= 0:
            raise ValueError(
                f'ReLearningHook: interval and strength must be positive, got {interval} and '
                f'{strength}'
            )
        self.interval, self.times = interval, times
        self.strength, self.max_samples = strength, max_samples
        self.start: dict[str, list[Tensor]] | None = None

    def before_train(self, runner: Any) -> None:
        """Keep the initial state, unless a checkpoint brought it."""
        if runner.val_loop is None:
            raise ValueError(
                'ReLearningHook compares training with validation data: val_dataloader is missing'
            )
        if self.start is None:
            owned = unwrap(runner.model).modality_parameters()
            self.start = {m: [p.detach().clone() for p in ps] for m, ps in owned.items()}

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """The initial state goes with it."""
        if self.start is not None:
            checkpoint[STORED] = {m: [p.cpu() for p in ps] for m, ps in self.start.items()}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """On resuming the initial state comes back.

        Raises:
            ValueError: the checkpoint is of a run without this hook.
        """
        if not runner._resume:
            return
        if STORED not in checkpoint:
            raise ValueError(
                f'ReLearningHook: the checkpoint has no initial state ({STORED!r}), it was not '
                f'written by a run with this hook; start a new run with load_from instead'
            )
        self.start = checkpoint[STORED]

    def before_train_epoch(self, runner: Any) -> None:
        """Diagnose and mix."""
        every = epochs_of(self.interval, runner.max_epochs)
        turn, rest = divmod(runner.epoch, every)
        if not runner.epoch or rest or turn > self.times:
            return
        model = unwrap(runner.model)
        weights = self._diagnose(runner, model)
        self._mix(model, weights)
        shown = ', '.join(
            f'{m} {a:.3f}' for m, a in zip(model.modalities, weights.tolist(), strict=True)
        )
        runner.logger.info(f're-learning {turn}: share of the initial state: {shown}')

    def _diagnose(self, runner: Any, model: Any) -> Tensor:
        splits = []
        for loader in (runner.train_dataloader, runner.val_dataloader):
            total = len(loader.dataset)
            step = max(1, -(-total // self.max_samples))
            splits.append(collect_samples(model, loader, range(0, total, step)))
        weights = torch.zeros(len(model.modalities), device=model.class_log_prior.device)
        if is_main_process():
            train, val = (self._purities(model, seen) for seen in splits)
            weights.copy_(relearning_weights(train, val, self.strength))
        broadcast(weights, src=0)
        return weights

    @staticmethod
    def _purities(model: Any, seen: Collected) -> Tensor:
        rows = []
        for i, m in enumerate(model.modalities):
            there = seen.present[:, i]
            if int(there.sum()) < 2:
                rows.append(0.0)
                continue
            # what learns: encoder and bottleneck together where the encoder is frozen
            frozen = getattr(model.encoders[m], 'frozen', False)
            features = seen.z[m] if frozen else seen.features[m]
            rows.append(cluster_purity(features[there], seen.labels[there], model.num_classes))
        return torch.tensor(rows, dtype=torch.float64)

    @torch.no_grad()
    def _mix(self, model: Any, weights: Tensor) -> None:
        if self.start is None:
            raise RuntimeError('ReLearningHook.before_train has not run')
        for (m, params), a in zip(
            model.modality_parameters().items(), weights.tolist(), strict=True
        ):
            for p, start in zip(params, self.start[m], strict=True):
                p.mul_(1 - a).add_(start.to(p), alpha=a)
