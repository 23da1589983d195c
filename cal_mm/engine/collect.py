"""What a model makes of many samples: features, logits and labels over a loader or a dataset."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_rank, get_world_size
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from cal_mm.models.bottlenecks import posterior_numbers
from cal_mm.models.losses.sample_history import gather_rows
from cal_mm.models.modes import evaluating

__all__ = [
    'Collected',
    'collect',
    'collect_samples',
    'gathered',
    'plain_loader',
    'prepared_batches',
]


@dataclass
class Collected:
    """What the model made of N samples, in evaluation mode.

    Attributes:
        features: encoder outputs {m: [N, H_m]}, float32.
        z: what enters fusion {m: [N, D_m]}, float32.
        unimodal: u_m {m: [N, C]} on the bottlenecks' means; empty without unimodal logits.
        logits: fused logits [N, C].
        coalitions: fused logits of the asked for coalitions [N, S, C], or None.
        posteriors: KL and entropy of the bottlenecks' posteriors [N, M, 2].
        present: bool [N, M].
        labels: int64 [N].
    """

    features: dict[str, Tensor]
    z: dict[str, Tensor]
    unimodal: dict[str, Tensor]
    logits: Tensor
    coalitions: Tensor | None
    posteriors: Tensor
    present: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def by_coalition(self) -> Tensor:
        """Fused logits of the coalitions [S, N, C], in the plan's layout.

        Raises:
            ValueError: no coalitions were asked for.
        """
        if self.coalitions is None:
            raise ValueError('coalitions were not collected: give collect their masks')
        return self.coalitions.transpose(0, 1).contiguous()

    def mapped(self, change: Any) -> 'Collected':
        """``change(rows)`` of every table."""
        return Collected(
            features={m: change(v) for m, v in self.features.items()},
            z={m: change(v) for m, v in self.z.items()},
            unimodal={m: change(v) for m, v in self.unimodal.items()},
            logits=change(self.logits),
            coalitions=None if self.coalitions is None else change(self.coalitions),
            posteriors=change(self.posteriors),
            present=change(self.present),
            labels=change(self.labels),
        )


def plain_loader(
    dataset: Any, batch_size: int, indices: Sequence[int] | None = None, num_workers: int = 0
) -> DataLoader:
    """A loader in the dataset's order that leaves torch's global generator alone."""
    return DataLoader(
        dataset if indices is None else Subset(dataset, list(indices)),
        batch_size=batch_size,
        collate_fn=pseudo_collate,
        num_workers=num_workers,
        generator=torch.Generator(),
    )


def prepared_batches(model: Any, loader: Any) -> Iterator[dict[str, Any]]:
    """Every batch of ``loader`` as the model's ``state`` takes it, without augmentation."""
    for data in loader:
        yield model.data_preprocessor(data, training=False)


@torch.no_grad()
def collect(
    model: Any,
    loader: Any,
    max_samples: int | None = None,
    masks: Tensor | None = None,
    device: str | torch.device | None = None,
) -> Collected:
    """This rank's samples of ``loader``; every module keeps its own mode.

    Args:
        model: a ``MultiModalClassifier``, unwrapped.
        loader: gives collated batches.
        max_samples: stop after the batch that reaches it; None: all.
        masks: bool [S, M], coalitions whose fused logits are wanted.
        device: where the tables go, batch by batch; None: they stay where the model is.

    Raises:
        ValueError: the loader gives no batch.
    """
    parts: list[Collected] = []
    count = 0
    with evaluating(model):
        for data in prepared_batches(model, loader):
            part = _of_batch(model, model.state(**data), masks)
            parts.append(part if device is None else part.mapped(lambda rows: rows.to(device)))
            count += len(parts[-1])
            if max_samples is not None and count >= max_samples:
                break
    if not parts:
        raise ValueError('there are no samples to collect: the loader gave no batch')
    return _joined(parts)


def collect_samples(
    model: Any,
    loader: Any,
    indices: Sequence[int] | None = None,
    masks: Tensor | None = None,
) -> Collected:
    """Samples of the dataset behind ``loader`` in their order, shared out over the ranks.

    Every rank gets the same tables with all of them, whatever the loader's sampler does.

    Args:
        model: a ``MultiModalClassifier``, unwrapped.
        loader: its dataset, batch size and number of workers are used.
        indices: of the samples; None: all.
        masks: see :func:`collect`.
    """
    wanted = list(range(len(loader.dataset))) if indices is None else list(indices)
    rank, world = get_rank(), get_world_size()
    mine = wanted[rank::world] or wanted[:1]  # a rank without samples would hang the others
    size = loader.batch_size or 64
    found = collect(
        model, plain_loader(loader.dataset, size, mine, loader.num_workers), masks=masks
    )
    if world == 1:
        return found
    counts = [len(wanted[r::world]) or 1 for r in range(world)]
    starts = [sum(counts[:r]) for r in range(world)]
    order = torch.tensor([starts[i % world] + i // world for i in range(len(wanted))])
    return gathered(found).mapped(lambda rows: rows[order.to(rows.device)])


def gathered(found: Collected) -> Collected:
    """The rows of every rank, one rank after another."""

    def rows_of_all(rows: Tensor) -> Tensor:
        if rows.dtype == torch.bool:
            return gather_rows(rows.to(torch.uint8)).bool()
        return gather_rows(rows.contiguous())

    return found.mapped(rows_of_all)


def _of_batch(model: Any, state: Any, masks: Tensor | None) -> Collected:
    present = state.present
    if present is None:
        present = torch.ones(state.batch_size, len(model.modalities), dtype=torch.bool)
    unimodal = {}
    if state.head is not None:
        unimodal = {m: state.mean_unimodal_logits(m).float() for m in model.modalities}
    coalitions = None
    if masks is not None:
        coalitions = state.coalition_logits(masks.to(state.logits.device)).float().transpose(0, 1)
    return Collected(
        features={m: v.float() for m, v in state.features.items()},
        z={m: v.float() for m, v in state.z.items()},
        unimodal=unimodal,
        logits=state.logits.float(),
        coalitions=coalitions,
        posteriors=posterior_numbers(model.bottlenecks, state.features, state.kl),
        present=present.to(state.logits.device),
        labels=state.known_labels,
    )


def _joined(parts: list[Collected]) -> Collected:
    def cat(name: str) -> dict[str, Tensor]:
        tables = [getattr(part, name) for part in parts]
        return {m: torch.cat([t[m] for t in tables]) for m in tables[0]}

    coalitions = [part.coalitions for part in parts if part.coalitions is not None]
    return Collected(
        features=cat('features'),
        z=cat('z'),
        unimodal=cat('unimodal'),
        logits=torch.cat([p.logits for p in parts]),
        coalitions=torch.cat(coalitions) if coalitions else None,
        posteriors=torch.cat([p.posteriors for p in parts]),
        present=torch.cat([p.present for p in parts]),
        labels=torch.cat([p.labels for p in parts]),
    )
