"""What every fusion shares: the order of modalities, absent values, coalitions."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from cal_mm.models.modes import evaluating

from .functional import updated_mean

__all__ = ['BaseFusion', 'coalition_logits']

ABSENT = ('zeros', 'mean', 'token')


def coalition_logits(
    fusion: nn.Module,
    z: Mapping[str, Tensor],
    masks: Tensor,
    present: Tensor | None = None,
    as_trained: bool = False,
) -> Tensor:
    """:meth:`BaseFusion.coalition_logits` for any fusion, also one that only has ``forward``.

    Args:
        fusion: takes ``forward(z, present)`` with ``present`` bool [B, M].
        z: [B, D_m] by modality.
        masks: bool [S, M] in the sorted order of the modalities.
        present: bool [B, M] or None.
        as_trained: in the fusion's own mode, with its dropout in training.

    Returns:
        [S, B, C], one stacked forward, in evaluation mode unless ``as_trained``.
    """
    if isinstance(fusion, BaseFusion) or hasattr(fusion, 'coalition_logits'):
        mode = {'as_trained': True} if as_trained else {}
        return fusion.coalition_logits(z, masks, present, **mode)  # type: ignore[operator]
    count, batch = masks.shape[0], next(iter(z.values())).shape[0]
    keep = masks.bool()[:, None, :].expand(-1, batch, -1)
    keep = (keep if present is None else keep & present.bool()).flatten(0, 1)
    with nullcontext() if as_trained else evaluating(fusion):
        logits = fusion({m: v.repeat(count, 1) for m, v in z.items()}, keep)
    return logits.view(count, batch, -1)


class BaseFusion(nn.Module):
    """Base of the shipped fusions.

    A subclass implements :meth:`fuse`. The order of the modalities is that of their sorted names.

    A modality is absent for a sample when it is left out of ``z`` or when ``present`` is false.
    Then its features are replaced, and gradients do not reach what was there:

    - ``'zeros'``;
    - ``'mean'``: a running mean of the modality's features over present samples, updated by
      every ``forward`` in training (first one: the batch's mean). Like the statistics of
      BatchNorm it follows each rank's own batches, and micro-batches one after another;
    - ``'token'``: a learned vector, which starts at zero.

    Args:
        in_channels: width D_m by modality name.
        num_classes: C.
        absent: 'zeros', 'mean' or 'token'.
        momentum: weight in (0, 1] of the newest batch in the running mean.

    Raises:
        ValueError: no modality, or an option out of range.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int,
        absent: str = 'zeros',
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not in_channels:
            raise ValueError(f'{name}: in_channels is empty, give {{modality: width}}')
        if num_classes < 1:
            raise ValueError(f'{name}: num_classes must be >= 1, got {num_classes}')
        if absent not in ABSENT:
            raise ValueError(f'{name}: absent must be one of {ABSENT}, got {absent!r}')
        if not 0 < momentum <= 1:
            raise ValueError(f'{name}: momentum must be in (0, 1], got {momentum}')
        self.modalities = tuple(sorted(in_channels))
        self.in_channels = {m: int(in_channels[m]) for m in self.modalities}
        self.num_classes = num_classes
        self.absent = absent
        self.momentum = momentum
        self._make_absent_values()

    def _make_absent_values(self) -> None:
        for m in self.modalities:
            value = torch.zeros(self.in_channels[m])
            if self.absent == 'token':
                self.register_parameter(f'token_of_{m}', nn.Parameter(value))
            elif self.absent == 'mean':
                self.register_buffer(f'mean_of_{m}', value)
        if self.absent == 'mean':
            seen = torch.zeros(len(self.modalities), dtype=torch.bool)
            self.register_buffer('means_seen', seen)

    def absent_value(self, modality: str) -> Tensor:
        """What stands in for an absent ``modality``: [D_m]."""
        if self.absent == 'token':
            return self.get_parameter(f'token_of_{modality}')
        if self.absent == 'mean':  # a copy: autograd may keep it while training updates the buffer
            return self.get_buffer(f'mean_of_{modality}').clone()
        like = next(self.parameters(), torch.empty(0))
        return torch.zeros(self.in_channels[modality], device=like.device)

    def presence(self, z: Mapping[str, Tensor], present: Tensor | None = None) -> Tensor:
        """bool [B, M]: given in ``z`` and not marked as absent.

        Raises:
            ValueError: ``z`` is empty, or a shape is wrong.
            LookupError: ``z`` holds a modality that this fusion does not know.
        """
        self._check(z)
        first = next(iter(z.values()))
        batch = first.shape[0]
        given = torch.tensor([m in z for m in self.modalities], device=first.device)
        given = given.expand(batch, -1)
        if present is None:
            return given
        if tuple(present.shape) != (batch, len(self.modalities)):
            raise ValueError(
                f'present must be [B, M] = {(batch, len(self.modalities))} for the modalities '
                f'{self.modalities}, got {tuple(present.shape)}'
            )
        return given & present.to(dtype=torch.bool, device=first.device)

    def _check(self, z: Mapping[str, Tensor]) -> None:
        name = type(self).__name__
        if not z:
            raise ValueError(f'{name}: needs at least one of the modalities {self.modalities}')
        unknown = sorted(set(z) - set(self.modalities))
        if unknown:
            raise LookupError(
                f'{name}: does not know the modality {unknown[0]!r}, only {self.modalities}'
            )
        batch = next(iter(z.values())).shape[0]
        for m, value in z.items():
            if tuple(value.shape) != (batch, self.in_channels[m]):
                raise ValueError(
                    f'{name}: {m!r} must be [B, D] = {(batch, self.in_channels[m])}, '
                    f'got {tuple(value.shape)}'
                )

    def fill(self, z: Mapping[str, Tensor], present: Tensor | None = None) -> dict[str, Tensor]:
        """Features of every modality, absent ones replaced: {m: [B, D_m]}."""
        return self._fill(z, self.presence(z, present), force=present is not None)

    def _fill(self, z: Mapping[str, Tensor], keep: Tensor, force: bool) -> dict[str, Tensor]:
        first = next(iter(z.values()))
        full = {}
        for i, m in enumerate(self.modalities):
            # a token takes part even where nothing is absent: DDP wants a gradient for everything
            if m in z and not force and self.absent != 'token':
                full[m] = z[m]
                continue
            value = self.absent_value(m).to(dtype=first.dtype, device=first.device)
            there = z.get(m, value.expand(first.shape[0], -1))
            full[m] = torch.where(keep[:, i : i + 1], there, value)
        return full

    def fuse(self, z: dict[str, Tensor], present: Tensor) -> Tensor:
        """The subclass's computation.

        Args:
            z: [B, D_m] of every modality, absent values filled in.
            present: bool [B, M], which of them are real.

        Returns:
            logits [B, C].
        """
        raise NotImplementedError(f'{type(self).__name__} must implement fuse(z, present)')

    def forward(self, z: Mapping[str, Tensor], present: Tensor | None = None) -> Tensor:
        """Fused logits.

        Args:
            z: [B, D_m] of any non-empty subset of the modalities.
            present: bool [B, M] in the order of ``self.modalities``; None: all given ones are.

        Returns:
            [B, C].
        """
        return self.forward_with_details(z, present)[0]

    def forward_with_details(
        self, z: Mapping[str, Tensor], present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As :meth:`forward`, with what else the fusion knows, for losses that need it."""
        keep = self.presence(z, present)
        if self.training and self.absent == 'mean':
            self._update_means(z, keep)
        return self.fuse_with_details(self._fill(z, keep, force=present is not None), keep)

    def fuse_with_details(
        self, z: dict[str, Tensor], present: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`fuse` and its intermediate results by name: a decision fusion's confidences."""
        return self.fuse(z, present), {}

    @torch.no_grad()
    def _update_means(self, z: Mapping[str, Tensor], keep: Tensor) -> None:
        seen: Tensor = self.get_buffer('means_seen')
        for i, m in enumerate(self.modalities):
            if m not in z or not bool(keep[:, i].any()):
                continue
            buffer = self.get_buffer(f'mean_of_{m}')
            rows = z[m][keep[:, i]]
            buffer.copy_(updated_mean(buffer, rows, self.momentum, first=not bool(seen[i])))
            seen[i] = True

    def unimodal_logits(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits [B, C] of each given modality alone, the others at their absent value.

        Fusions that are a sum over modalities give each one's own share instead.
        """
        self._check(z)
        return {m: self._alone(m, z[m]) for m in z}

    def _alone(self, modality: str, z: Tensor) -> Tensor:
        one = {modality: z}
        keep = self.presence(one)
        return self.fuse(self._fill(one, keep, force=False), keep)

    def coalition_logits(
        self,
        z: Mapping[str, Tensor],
        masks: Tensor,
        present: Tensor | None = None,
        as_trained: bool = False,
    ) -> Tensor:
        """Logits when only some modalities are there, for many such coalitions at once.

        One stacked evaluation instead of S calls, without an update of running means and, whatever
        the mode, without dropout: monitoring must not change training. Gradients flow.

        Args:
            z: as in :meth:`forward`.
            masks: bool [S, M], true for the members; a row may be empty.
            present: as in :meth:`forward`; an absent modality stays absent in every coalition.
            as_trained: with dropout if this is in training mode, for losses on coalitions.

        Returns:
            [S, B, C].
        """
        keep = self.presence(z, present)
        if masks.dim() != 2 or masks.shape[1] != len(self.modalities):
            raise ValueError(
                f'masks must be [S, M] with M = {len(self.modalities)} for the modalities '
                f'{self.modalities}, got {tuple(masks.shape)}'
            )
        masks = masks.to(dtype=torch.bool, device=keep.device)
        with nullcontext() if as_trained else evaluating(self):
            return self._coalitions(z, masks[:, None, :] & keep[None])

    def _coalitions(self, z: Mapping[str, Tensor], keep: Tensor) -> Tensor:
        """``keep`` bool [S, B, M] to [S, B, C]; a subclass may know a shorter way."""
        count, batch = keep.shape[:2]
        stacked = {m: v.repeat(count, 1) for m, v in z.items()}
        flat = keep.flatten(0, 1)
        logits = self.fuse(self._fill(stacked, flat, force=True), flat)
        return logits.view(count, batch, -1)

    def _absent_row(self, like: Tensor) -> dict[str, Tensor]:
        """Every modality's absent value as a batch of one, for closed forms."""
        return {
            m: self.absent_value(m).to(dtype=like.dtype, device=like.device).unsqueeze(0)
            for m in self.modalities
        }
