"""Contribution from small pilot trainings on folds: for encoders that learn from scratch."""

import copy
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from cal_mm.models.contribution.functional import CoalitionPlan
from cal_mm.registry import CONTRIBUTION_SOURCES, MODELS
from cal_mm.structures import sample_key

from ..collect import Collected, collect
from ..short_training import (
    alone,
    micro_batch_size,
    preserved_rng,
    shuffled_batches,
    step_of_run,
    update_size,
)
from .estimate import CrossFittedSource
from .probes import coalition_scores

__all__ = ['PilotSource']

READOUTS = ('ridge', 'heads')


@CONTRIBUTION_SOURCES.register_module()
class PilotSource(CrossFittedSource):
    """Grouped K-fold pilot training: I and D of samples that the pilot never saw.

    Per fold a fresh model of the run's own config (fused and unimodal cross-entropy) trains for a
    few updates on the other folds with the run's optimiser at its base rate. What does not learn in
    the encoders is the run's own; what learns starts anew, also where the run starts from
    ``load_from``. What its encoders' features then tell is read by ridge probes, one per coalition,
    fitted on the same folds; the fold's predictions are calibrated across folds. The pilot's own
    fusion and heads would tell how fast a modality learns rather than how much it tells.

    Args:
        folds: K >= 2. Samples with one ``group`` stay in one fold.
        updates: updates per fold, at least.
        share: of the run's parameter updates, at least; the larger of the two counts.
        readout: ``ridge``, or ``heads``: the pilot's own fusion and unimodal heads.
        batch_size: of an update; default: that of the run, over micro-batches and ranks. More
            than the run's micro-batch goes through in parts.
        seed: of the folds, the initialisation and the order.
        fallback: fall back to uniform W when the modalities do not differ by two standard errors.

    Source: ours; a prototype found that W from training batches points the wrong way on small or
    noisy data, and this does not.
    """

    def __init__(
        self,
        folds: int = 2,
        updates: int = 120,
        share: float = 0.0,
        readout: str = 'ridge',
        batch_size: int | None = None,
        seed: int = 0,
        fallback: bool = True,
    ) -> None:
        if updates < 1:
            raise ValueError(f'PilotSource: updates must be at least 1, got {updates}')
        if not 0 <= share <= 1:
            raise ValueError(f'PilotSource: share must be in [0, 1], got {share}')
        if readout not in READOUTS:
            raise ValueError(f'PilotSource: readout must be one of {READOUTS}, got {readout!r}')
        super().__init__(folds, seed, fallback)
        self.readout = readout
        self.updates = updates
        self.share = share
        self.batch_size = batch_size

    def predict(
        self, runner: Any, model: Any, labels: Tensor, folds: Tensor, plan: CoalitionPlan
    ) -> tuple[Tensor, Tensor]:
        """Predictions of a pilot per fold."""
        loader = runner.train_dataloader
        dataset = loader.dataset
        every = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        updates = max(self.updates, int(self.share * -(-runner.max_iters // every)))
        size = self.batch_size or update_size(runner, loader)
        most = min(size, micro_batch_size(loader))
        shape = (len(labels), model.num_classes)
        coalitions = torch.zeros(plan.num_coalitions, *shape)
        unimodal = torch.zeros(len(model.modalities), *shape)
        with preserved_rng(sample_key('pilot', self.seed, runner.seed)):
            for fold in range(self.folds):
                runner.logger.info(f'contribution pilot {fold + 1}/{self.folds}: {updates} updates')
                pilot = self._build(runner, model)
                inside = (folds != fold).nonzero().flatten()
                held_out = (folds == fold).nonzero().flatten()
                self._train(pilot, runner, dataset, inside, updates, size, most)
                c, u = self._read(pilot, dataset, labels, folds != fold, plan.masks, most)
                coalitions[:, held_out], unimodal[:, held_out] = c.float(), u.float()
        return coalitions, unimodal

    @staticmethod
    def _build(runner: Any, model: Any) -> Any:
        cfg = copy.deepcopy(runner.cfg.model)
        cfg.contribution = None
        cfg.gate = 'none'
        cfg.unimodal_head = cfg.get('unimodal_head') or dict(type='LinearHead')
        cfg.losses = [dict(type='FusedCrossEntropy'), dict(type='UnimodalCrossEntropy', weight=1.0)]
        pilot = alone(MODELS.build(cfg))
        pilot.init_weights()
        _take_fixed(pilot.encoders, model.encoders)
        # fitted statistics of the front ends, not weights
        pilot.data_preprocessor.load_state_dict(model.data_preprocessor.state_dict())
        pilot.class_log_prior.copy_(model.class_log_prior.cpu())
        return pilot.to(next(model.parameters()).device)

    @staticmethod
    def _train(
        pilot: Any,
        runner: Any,
        dataset: Any,
        index: Tensor,
        updates: int,
        size: int,
        most: int,
    ) -> None:
        params = [p for p in pilot.parameters() if p.requires_grad]
        step = step_of_run(runner, pilot, [params])

        def loss(data: Any, update: int) -> Tensor:
            pilot.forward_count.fill_(update)  # an update draws alike in all its parts
            data = pilot.data_preprocessor(data, training=True)
            return pilot.parse_losses(pilot(**data, mode='loss'))[0]

        pilot.train()
        for update, parts in enumerate(shuffled_batches(dataset, index, updates, size, most)):
            step(share * loss(data, update) for share, data in parts)

    def _read(
        self, pilot: Any, dataset: Any, labels: Tensor, inside: Tensor, masks: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """Logits of the coalitions [S, n, C] and of each modality [M, n, C], for the n samples
        outside.
        """
        if self.readout == 'heads':
            seen = self._seen(pilot, dataset, (~inside).nonzero().flatten(), size, masks)
            return seen.by_coalition, torch.stack([seen.unimodal[m] for m in pilot.modalities])
        seen = self._seen(pilot, dataset, torch.arange(len(labels)), size)
        features = {m: seen.features[m].double() for m in pilot.modalities}
        return coalition_scores(features, labels, pilot.num_classes, inside, masks)

    @staticmethod
    def _seen(
        pilot: Any, dataset: Any, index: Tensor, size: int, masks: Tensor | None = None
    ) -> Collected:
        # no generator of its own: what it draws is part of what later folds are seeded with
        loader = DataLoader(
            Subset(dataset, index.tolist()), batch_size=max(size, 64), collate_fn=pseudo_collate
        )
        return collect(pilot, loader, masks=masks, device='cpu')


@torch.no_grad()
def _take_fixed(part: nn.Module, of_run: nn.Module) -> None:
    """Copy into ``part`` what does not learn, from the module of the run that is built alike.

    Parameters without a gradient, and the buffers of modules in which nothing learns.
    """
    if not any(p.requires_grad for p in part.parameters()):
        part.load_state_dict(of_run.state_dict())
        return
    for name, parameter in part.named_parameters(recurse=False):
        if not parameter.requires_grad:
            parameter.copy_(of_run.get_parameter(name))
    for name, child in part.named_children():
        _take_fixed(child, of_run.get_submodule(name))
