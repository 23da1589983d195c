"""Contribution from cross-fitted ridge probes: for frozen encoders and for features."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cal_mm.models.contribution.functional import CoalitionPlan
from cal_mm.models.modes import evaluating
from cal_mm.registry import CONTRIBUTION_SOURCES
from cal_mm.structures import sample_key

from ..collect import plain_loader, prepared_batches
from ..short_training import preserved_rng
from .estimate import CrossFittedSource
from .probes import coalition_scores

__all__ = ['RidgeSource']


@CONTRIBUTION_SOURCES.register_module()
class RidgeSource(CrossFittedSource):
    """Cross-fitted ridge probes on features, one per coalition of modalities.

    The features are a frozen encoder's output, or what enters an encoder that learns (flattened;
    wider than ``max_dim`` is projected at random). Scores are calibrated across folds.

    Args:
        folds: K >= 2, grouped.
        max_dim: widest feature kept as it is.
        seed: of folds and projection.
        fallback: fall back to uniform W when the modalities do not differ by two standard errors.

    Source: ours; a prototype found it as good as the pilot on frozen features, in a fraction of the
    time.
    """

    def __init__(
        self, folds: int = 2, max_dim: int = 2048, seed: int = 0, fallback: bool = True
    ) -> None:
        super().__init__(folds, seed, fallback)
        self.max_dim = max_dim

    def predict(
        self, runner: Any, model: Any, labels: Tensor, folds: Tensor, plan: CoalitionPlan
    ) -> tuple[Tensor, Tensor]:
        """Scores of a probe per coalition."""
        loader = runner.train_dataloader
        with preserved_rng(sample_key('ridge', self.seed)):
            features = self._features(model, loader.dataset, loader.batch_size or 64)
        shape = (len(labels), model.num_classes)
        coalitions = torch.zeros(plan.num_coalitions, *shape, dtype=torch.float64)
        unimodal = torch.zeros(len(model.modalities), *shape, dtype=torch.float64)
        for fold in folds.unique():
            coalitions[:, folds == fold], unimodal[:, folds == fold] = coalition_scores(
                features, labels, model.num_classes, folds != fold, plan.masks
            )
        return coalitions, unimodal

    @torch.no_grad()
    def _features(self, model: Any, dataset: Any, size: int) -> dict[str, Tensor]:
        """{m: float64 [N, d_m]} for the whole training set, in its order."""
        rows: dict[str, list[Tensor]] = {m: [] for m in model.modalities}
        with evaluating(model):
            for data in prepared_batches(model, plain_loader(dataset, max(size, 64))):
                for m in model.modalities:
                    rows[m].append(self._feature(model, m, data).double().cpu())
        return {m: torch.cat(parts) for m, parts in rows.items()}

    def _feature(self, model: Any, modality: str, data: Mapping[str, Any]) -> Tensor:
        cached = (data.get('features') or {}).get(modality)
        if cached is not None:
            return cached
        x = data['inputs'][modality]
        encoder = model.encoders[modality]
        if getattr(encoder, 'frozen', False):
            return encoder(x, (data.get('masks') or {}).get(modality))
        if not torch.is_floating_point(x):
            raise ValueError(
                f'RidgeSource: modality {modality!r} enters its encoder as {x.dtype} (tokens) and '
                f'the encoder is not frozen, so '
                f"there are no features to probe. Use model.contribution.source='pilot'."
            )
        flat = x.float().flatten(1)
        if flat.shape[1] <= self.max_dim:
            return flat
        generator = torch.Generator().manual_seed(sample_key('project', modality, self.seed))
        matrix = torch.randn(flat.shape[1], self.max_dim, generator=generator).to(flat)
        return flat @ matrix / self.max_dim**0.5
