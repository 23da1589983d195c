"""What an attack moves: the values of one modality, or what is added to its token embeddings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from .adversarial_functional import ball_radius, project, random_in_ball, steepest
from .adversarial_model import Victim

__all__ = ['EmbeddingTarget', 'Target', 'ValueTarget']


class Target:
    """The rows of a batch that an attack moves in one modality, as matrices [n, N].

    Args:
        attack: says scale, range and norm.
        rows: positions in the batch; n of them.
        values: clean values, padded, [n, N]; for text the token embeddings.
        valid: bool [n, N], false at padding.
        shapes: of each row's value.
    """

    def __init__(
        self,
        attack: Any,
        rows: Sequence[int],
        values: Tensor,
        valid: Tensor,
        shapes: Sequence[torch.Size],
    ) -> None:
        self.attack, self.rows = attack, list(rows)
        self.values, self.shapes = values, list(shapes)
        self.index = torch.tensor(self.rows, device=values.device)
        self.scale = attack.scale(values, valid, shapes).expand_as(values) * valid
        self.free = self.scale > 0
        self.radius = ball_radius(attack.eps, self.free.sum(1), attack.norm)
        low, high = attack.limits(values)
        nothing = torch.zeros_like(values)
        self.low = torch.where(self.free, (low - values) / self.scale, nothing)
        self.high = torch.where(self.free, (high - values) / self.scale, nothing)
        self.v = nothing
        self.best = nothing
        self._told = False

    def start_at_random(self, rngs: Sequence[np.random.Generator]) -> None:
        """Begin at a point drawn evenly from the ball, by each sample's own generator."""
        norm = self.attack.norm
        start = torch.zeros(self.v.shape)
        for row, free, rng in zip(start, self.free.cpu(), rngs, strict=True):
            # of the free values alone: how far a batch pads a text must not matter
            row[free] = torch.from_numpy(random_in_ball(rng, int(free.sum()), norm))
        start = start.to(self.v) * self.radius.to(self.v.dtype)
        self.v = project(start, self.radius, norm, self.low, self.high)

    def ascend(self, gradient: Tensor | None, step: float, sample_ids: Sequence[str]) -> None:
        """One step of ``step`` radii along the gradient, back into the ball and the range.

        Raises:
            ValueError: no gradient reaches the modality.
        """
        if gradient is None:
            raise ValueError(
                f'{self.attack.name}: no gradient of the prediction reaches modality '
                f'{self.attack.modality!r}: its front end or encoder is not differentiable (a '
                f'torch.no_grad() or .detach() inside?). A frozen encoder of your own must derive '
                f'from cal_mm.models.encoders.BaseEncoder, or let gradients through'
            )
        bad = ~torch.isfinite(gradient)
        if bool((bad & self.free).any()):
            self._tell(bad, sample_ids)
        gradient = torch.where(bad, torch.zeros_like(gradient), gradient)
        norm = self.attack.norm
        move = steepest(gradient, norm) * (step * self.radius).to(self.v.dtype)
        self.v = project(self.v + move, self.radius, norm, self.low, self.high)

    def _tell(self, bad: Tensor, sample_ids: Sequence[str]) -> None:
        if self._told:
            return
        self._told = True
        named = [sample_ids[self.rows[i]] for i in bad.any(1).nonzero()[:, 0].tolist()]
        print_log(
            f'{self.attack.name}: the gradient of modality {self.attack.modality!r} is not finite '
            f'in places for {", ".join(map(repr, named[:5]))}; these values are left alone',
            logger='current',
            level=30,
        )

    def keep_better(self, better: Tensor) -> None:
        """Note the perturbation of the samples (bool [B]) whose loss it raised."""
        self.best = torch.where(better[self.index, None], self.v, self.best)

    def put(self, v: Tensor, inputs: dict[str, Any], shifts: dict[str, Tensor]) -> None:
        """Enter the values under the perturbation ``v`` [n, N]; differentiable."""
        raise NotImplementedError

    def deliver(self, batch: dict[str, Any]) -> None:
        """Write the result into ``batch``."""
        raise NotImplementedError


class ValueTarget(Target):
    """Tensors: pixels, waveforms, depth, features."""

    def __init__(
        self, attack: Any, rows: Sequence[int], batch: Mapping[str, Any], device: torch.device
    ) -> None:
        given = batch['inputs'][attack.modality]
        chosen = [given[i] for i in rows]
        shapes = [v.shape for v in chosen]
        self.uniform = len(set(shapes)) == 1
        if self.uniform:
            values = torch.stack(chosen).to(device).float().flatten(1)
            valid = torch.ones_like(values, dtype=torch.bool)
        else:
            flat = [v.float().flatten() for v in chosen]
            values = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True).to(device)
            sizes = torch.tensor([len(f) for f in flat], device=device)
            valid = torch.arange(values.shape[1], device=device) < sizes[:, None]
        super().__init__(attack, rows, values, valid, shapes)
        # beside attacked values, which are float and on the device, the others must be, too
        self.others = [v if v is None else v.to(device).float() for v in given]
        self.dtypes = [v.dtype for v in chosen]

    def _split(self, rows: Tensor) -> list[Tensor]:
        if self.uniform:
            return list(rows.view(len(rows), *self.shapes[0]).unbind(0))
        return [
            row[: shape.numel()].view(shape) for row, shape in zip(rows, self.shapes, strict=True)
        ]

    def put(self, v: Tensor, inputs: dict[str, Any], shifts: dict[str, Tensor]) -> None:
        """The batch's list of values, attacked ones replaced."""
        values = list(self.others)
        for i, value in zip(self.rows, self._split(self.values + self.scale * v), strict=True):
            values[i] = value
        inputs[self.attack.modality] = values

    def deliver(self, batch: dict[str, Any]) -> None:
        """Values of the kind, on the CPU."""
        done = self.attack.finished(self.values, self.v, self.scale, self.radius).cpu()
        values = list(batch['inputs'][self.attack.modality])
        for i, value, dtype in zip(self.rows, self._split(done), self.dtypes, strict=True):
            values[i] = value.to(dtype, copy=True)
        batch['inputs'][self.attack.modality] = values


class EmbeddingTarget(Target):
    """What is added to the token embeddings of texts."""

    def __init__(self, attack: Any, rows: Sequence[int], victim: Victim) -> None:
        from cal_mm.models.encoders import observed_embeddings

        m = attack.modality
        if m in (victim.batch.get('embedding_shifts') or {}):
            raise ValueError(f'{attack.name}: the embeddings of modality {m!r} are shifted already')
        x, mask = victim.clean['inputs'][m], victim.clean['masks'][m]
        tokens = observed_embeddings(victim.model.encoders[m], m, x, mask)[list(rows)]
        there = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        there = there[list(rows)] if mask is None else mask[list(rows)].bool()
        valid = there[..., None].expand_as(tokens).flatten(1)
        shapes = [tokens.shape[1:]] * len(rows)
        super().__init__(attack, rows, tokens.flatten(1), valid, shapes)
        self.tokens, self.there, self.count = tokens, there, len(x)

    def put(self, v: Tensor, inputs: dict[str, Any], shifts: dict[str, Tensor]) -> None:
        """[B, L, E]."""
        moved = (self.scale * v).view_as(self.tokens)
        full = moved.new_zeros(self.count, *moved.shape[1:])
        shifts[self.attack.modality] = full.index_copy(0, self.index, moved)

    def deliver(self, batch: dict[str, Any]) -> None:
        """[tokens, E] per text, on the CPU."""
        moved = (self.scale * self.v).view_as(self.tokens)
        shifts: list[Tensor | None] = [None] * self.count
        for i, row, there in zip(self.rows, moved, self.there, strict=True):
            shifts[i] = row[there].cpu()
        batch['embedding_shifts'] = {
            **(batch.get('embedding_shifts') or {}),
            self.attack.modality: shifts,
        }
