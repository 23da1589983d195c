"""What every encoder of cal_mm shares: its width, freezing and a digest for the feature cache."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['BaseEncoder', 'state_digest']


def state_digest(state: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """sha256 (64 hex digits) over ``facts`` and every tensor's name, type, shape and bytes.

    The device does not matter. ``facts`` holds what changes the output but is no tensor.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f'\x1f{name}\x1f{value.dtype}\x1f{tuple(value.shape)}\x1f'.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class BaseEncoder(nn.Module):
    """Base of the shipped encoders; a user's encoder may derive from it but need not.

    A subclass implements :meth:`encode` and, as the last line of its ``__init__``, calls
    ``self.freeze()`` when it was asked for ``frozen=True``.

    Args:
        out_channels: width H of the output.
        facts: options that change the output without being tensors (a pooling, a model's name).
            They enter :meth:`digest`.

    Attributes:
        out_channels: width H of the output.
        frozen: no parameter learns, the mode is always evaluation, forward runs without gradients.
        sample_wise: in evaluation mode the output is a function of the sample alone, and forward
            may run in several threads. A test under many conditions then encodes a value once. An
            encoder that draws at random or looks at the rest of the batch sets it to False.
    """

    sample_wise = True

    def __init__(self, out_channels: int, **facts: Any) -> None:
        super().__init__()
        if out_channels < 1:
            raise ValueError(
                f'{type(self).__name__}: out_channels must be >= 1, got {out_channels}'
            )
        self.out_channels = int(out_channels)
        self.frozen = False
        #: set by ``differentiable``: a frozen encoder hands gradients on to its input
        self.passes_gradient = False
        self._facts = facts

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The subclass's computation: ``x`` [B, ...] to [B, out_channels]."""
        raise NotImplementedError(f'{type(self).__name__} must implement encode(x, mask)')

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode a batch.

        Args:
            x: [B, ...], see the encoder.
            mask: [B, L], true (or non-zero) where a position is valid; None: all are.

        Returns:
            float [B, out_channels]; without a gradient when frozen (but see ``differentiable``).

        Raises:
            ValueError: the result is not [B, out_channels].
        """
        if self.frozen and not self.passes_gradient:
            with torch.no_grad():
                out = self.encode(x, mask)
        else:
            out = self.encode(x, mask)
        expected = (x.shape[0], self.out_channels)
        if tuple(out.shape) != expected:
            raise ValueError(
                f'{type(self).__name__} gave {tuple(out.shape)} for an input of {tuple(x.shape)}, '
                f'expected {expected}: check its pooling and out_channels'
            )
        return out

    def freeze(self) -> 'BaseEncoder':
        """Stop learning for good: no gradients, evaluation mode even after ``train()``."""
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> 'BaseEncoder':
        """Set the mode; a frozen encoder stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def embedding_module(self) -> nn.Module | None:
        """Turns token ids [B, L] into embeddings [B, L, E], for attacks; None: nothing does."""
        return None

    def digest(self) -> str:
        """sha256 over class, options and weights: equal digests give equal features."""
        facts = {'class': type(self).__qualname__, 'out_channels': self.out_channels, **self._facts}
        return state_digest(self.state_dict(), facts)

    def _refuse(self, x: Tensor, expected: str) -> ValueError:
        return ValueError(
            f'{type(self).__name__} expects {expected}, got an input of shape {tuple(x.shape)}: '
            f'check the front end of this modality'
        )
