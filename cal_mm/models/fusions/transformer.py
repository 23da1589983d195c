"""A late-fusion transformer: several tokens per modality."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cal_mm.registry import FUSIONS

from .attention import AttentionFusion

__all__ = ['TransformerFusion']


@FUSIONS.register_module()
class TransformerFusion(AttentionFusion):
    """The strong plain baseline: each z_m, normalised, becomes several tokens; a class token and
    they pass a pre-norm encoder; the class token predicts.

    Tokens of absent modalities are masked as keys and so have no influence at all. Learned
    embeddings tell the tokens apart.

    Args:
        in_channels: width D_m by modality name.
        num_classes: C.
        embed_dims: width of a token, a multiple of ``num_heads``.
        num_layers: transformer layers.
        num_heads: attention heads.
        tokens_per_modality: K >= 1.
        feedforward_channels: width of the feed-forward layers; None: 4 * embed_dims.
        dropout: probability in [0, 1) inside the layers. It draws per batch: with more than 0 the
            update depends on how a batch is split.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        num_classes: int,
        embed_dims: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        tokens_per_modality: int = 4,
        feedforward_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        if tokens_per_modality < 1:
            raise ValueError(
                f'TransformerFusion: tokens_per_modality must be >= 1, got {tokens_per_modality}'
            )
        feedforward = feedforward_channels or 4 * embed_dims
        super().__init__(
            in_channels, num_classes, embed_dims, num_layers, num_heads, feedforward, dropout
        )
        self.tokens_per_modality = tokens_per_modality
        self.embed_dims = embed_dims
        count = len(self.modalities) * tokens_per_modality
        self.embeddings = nn.ModuleDict(
            {
                m: nn.Sequential(nn.LayerNorm(d), nn.Linear(d, tokens_per_modality * embed_dims))
                for m, d in self.in_channels.items()
            }
        )
        self.token_type = nn.Parameter(torch.empty(count, embed_dims))
        nn.init.normal_(self.token_type, std=0.02)

    def fuse(self, z: dict[str, Tensor], present: Tensor) -> Tensor:
        """Logits [B, C] from the class token."""
        made = torch.stack([self.embeddings[m](z[m]) for m in self.modalities], dim=1)
        tokens = made.reshape(len(made), -1, self.embed_dims) + self.token_type.to(made.dtype)
        first = self.class_token.to(made.dtype).expand(len(made), 1, -1)
        ignore = ~present.repeat_interleave(self.tokens_per_modality, dim=1)
        ignore = torch.cat([torch.zeros_like(ignore[:, :1]), ignore], dim=1)
        out = self.layers(torch.cat([first, tokens], dim=1), src_key_padding_mask=ignore)
        return self.head(self.norm(out[:, 0]))
