"""Token embeddings from outside: read them, or add to them, while an encoder runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['embedding_module', 'observed_embeddings', 'placed_shifts', 'shifted_embeddings']


def embedding_module(encoder: nn.Module, modality: str) -> nn.Module:
    """The module of ``encoder`` that turns token ids [B, L] into embeddings [B, L, E].

    Args:
        encoder: with a method ``embedding_module()``, as ``HFTextEncoder`` has.
        modality: for the message.

    Raises:
        ValueError: the encoder offers none.
    """
    offer: Any = getattr(encoder, 'embedding_module', None)
    module = offer() if callable(offer) else None
    if isinstance(module, nn.Module):
        return module
    raise ValueError(
        f'modality {modality!r}: {type(encoder).__name__} offers no token embeddings, so an attack '
        f'in embedding space has nothing to act on. Give the encoder a method embedding_module() '
        f'that returns its nn.Embedding (HFTextEncoder has it), or leave this modality out '
        f'(--attack NAME@MODALITY)'
    )


@contextmanager
def shifted_embeddings(encoder: nn.Module, modality: str, shift: Tensor | None) -> Iterator[None]:
    """Inside, ``shift`` [B, L, E] is added to what the token embeddings give; None adds nothing.

    Raises:
        ValueError: the encoder offers no embeddings, or the shift is of another shape.
    """

    if shift is None:
        yield
        return

    def add(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if output.shape != shift.shape:
            raise ValueError(
                f'modality {modality!r}: an embedding shift of shape {list(shift.shape)} does not '
                f'fit token embeddings of shape {list(output.shape)}'
            )
        return output + shift.to(output)

    handle = embedding_module(encoder, modality).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def observed_embeddings(
    encoder: nn.Module, modality: str, x: Tensor, mask: Tensor | None
) -> Tensor:
    """Token embeddings [B, L, E] of ``x``, as one pass through the encoder computes them."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append(output.detach().float())

    handle = embedding_module(encoder, modality).register_forward_hook(keep)
    try:
        with torch.no_grad():
            encoder(x, mask)
    finally:
        handle.remove()
    if not seen or seen[0].dim() != 3 or seen[0].shape[:2] != x.shape[:2]:
        got = list(seen[0].shape) if seen else 'nothing'
        raise ValueError(
            f'modality {modality!r}: the embedding_module() of {type(encoder).__name__} must give '
            f'[B, L, E] for token ids of shape {list(x.shape)}, got {got}'
        )
    return seen[0]


def placed_shifts(
    modality: str, shifts: Tensor | Sequence[Tensor | None], x: Tensor, mask: Tensor | None
) -> Tensor:
    """Shifts of the tokens of each text at their places in the batch, float32 [B, L, E].

    Args:
        modality: for the message.
        shifts: one [tokens, E] per text or None (no shift), or already [B, L, E].
        x: token ids [B, L].
        mask: [B, L], true (or one) at a token; None: everywhere.

    Raises:
        ValueError: a text has another number of tokens than its shift.
    """
    if isinstance(shifts, Tensor):
        return shifts.to(x.device)
    width = next((s.shape[-1] for s in shifts if s is not None), 1)
    out = torch.zeros(*x.shape[:2], width, device=x.device)
    for row, shift in enumerate(shifts):
        if shift is None:
            continue
        there = slice(None) if mask is None else mask[row].to(torch.bool)
        if out[row, there].shape != shift.shape:
            raise ValueError(
                f'modality {modality!r}: the embedding shift of text {row} of the batch is of '
                f'shape {list(shift.shape)}, but the text has {len(out[row, there])} tokens'
            )
        out[row, there] = shift.to(out)
    return out
