"""Any Hugging Face text backbone as an encoder."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cal_mm.registry import ENCODERS, suggestion

from .base import BaseEncoder
from .pooling import masked_max, masked_mean
from .resources import PACKAGE, resolve_resource

__all__ = ['HFTextEncoder']

#: entries of a configuration that say where it comes from, not what it computes
PROVENANCE = ('architectures', 'dtype', 'torch_dtype', 'transformers_version')
POOLINGS = ('mean', 'cls', 'max', 'pooler')


@ENCODERS.register_module()
class HFTextEncoder(BaseEncoder):
    """A transformers encoder (BERT, RoBERTa, DistilBERT, MiniLM, ...) with pooling over tokens.

    Input: token ids int64 [B, L], mask [B, L] (true or one: a token; None: all are). A sample
    without a token gives zeros.

    Args:
        model: a local folder, ``'package:NAME/folder'`` in an installed package, or a name on the
            hub.
        config: instead of ``model``: a dict with ``model_type`` and that model's options; the
            weights are random.
        pooling: 'mean' or 'max' over the tokens, 'cls' (first token), 'pooler' (the model's own).
        trainable_layers: train only the last n transformer layers (and the pooler); None: all.
        frozen: see :class:`BaseEncoder`.

    Raises:
        ValueError: contradicting arguments, an option that the model does not have, an unreadable
            or an encoder-decoder model.
        RuntimeError: the hub could not be reached.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        pooling: str = 'mean',
        trainable_layers: int | None = None,
        frozen: bool = False,
    ) -> None:
        if (model is None) == (config is None):
            raise ValueError('HFTextEncoder: give either model (folder or name) or config (a dict)')
        if pooling not in POOLINGS:
            raise ValueError(f'HFTextEncoder: pooling must be one of {POOLINGS}, got {pooling!r}')
        net = _from_config(config) if config is not None else _from_pretrained(str(model), pooling)
        if getattr(net.config, 'is_encoder_decoder', False):
            raise ValueError(
                f'HFTextEncoder takes encoders, {net.config.model_type!r} is an encoder-decoder'
            )
        super().__init__(int(net.config.hidden_size), config=_facts(net), pooling=pooling)
        self.pooling = pooling
        self.net = net
        self._settle_pooler()
        if trainable_layers is not None:
            _train_last(net, trainable_layers)
        if frozen:
            self.freeze()

    def embedding_module(self) -> nn.Module | None:
        """The word embeddings, before positions and normalisation."""
        return self.net.get_input_embeddings()

    def _settle_pooler(self) -> None:
        """Drop a pooler that is not used: DDP refuses parameters without a gradient."""
        pooler = getattr(self.net, 'pooler', None)
        if self.pooling == 'pooler' and pooler is None:
            raise ValueError(
                f'{self.net.config.model_type!r} has no pooler; take pooling="mean" or "cls"'
            )
        if self.pooling != 'pooler' and pooler is not None:
            self.net.pooler = None

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Token ids [B, L] to [B, out_channels]."""
        self._check(x, mask)
        keep = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.to(torch.bool)
        any_token = keep.any(dim=1, keepdim=True)
        seen = keep.clone()
        seen[:, 0] |= ~any_token[:, 0]  # attention over no key at all would be NaN
        out = self.net(input_ids=x, attention_mask=seen.to(torch.int64))
        pooled = self._pool(out, seen)
        return torch.where(any_token, pooled, torch.zeros_like(pooled))

    def _pool(self, out: Any, keep: Tensor) -> Tensor:
        if self.pooling == 'pooler':
            return out.pooler_output
        if self.pooling == 'cls':
            return out.last_hidden_state[:, 0]
        pool = masked_mean if self.pooling == 'mean' else masked_max
        return pool(out.last_hidden_state, keep)

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        if x.dim() != 2 or x.is_floating_point() or x.shape[1] == 0:
            raise self._refuse(x, f'integer token ids [B, L >= 1] (got {x.dtype})')
        if mask is not None and mask.shape != x.shape:
            raise self._refuse(x, f"a mask of the ids' shape, not {tuple(mask.shape)}")
        longest = getattr(self.net.config, 'max_position_embeddings', None)
        places = getattr(getattr(self.net, 'embeddings', None), 'position_embeddings', None)
        begin = getattr(places, 'padding_idx', None)
        if longest is not None and begin is not None:
            longest -= begin + 1  # RoBERTa counts positions from there
        if longest is not None and x.shape[1] > longest:
            raise self._refuse(x, f'at most {longest} tokens (set max_length in the front end)')
        vocabulary = self.net.config.vocab_size
        if x.numel() and (int(x.max()) >= vocabulary or int(x.min()) < 0):
            raise self._refuse(
                x,
                f'ids in [0, {vocabulary}) (found {int(x.min())} to {int(x.max())}; '
                f'the tokeniser must belong to this model)',
            )


def _facts(net: Any) -> dict[str, Any]:
    """The model's configuration without what depends on the place it was loaded from."""
    facts = net.config.to_dict()
    return {k: v for k, v in facts.items() if k not in PROVENANCE and not k.startswith('_')}


def _from_config(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModel

    options = {str(k): v for k, v in config.items()}
    kind = options.pop('model_type', None)
    if kind is None:
        raise ValueError(
            f"HFTextEncoder: config needs 'model_type' (such as 'bert'), got {sorted(options)}"
        )
    known = _options_of(AutoConfig.for_model(kind))
    for name in options:
        if name not in known:
            raise ValueError(
                f'HFTextEncoder: {kind!r} has no option {name!r}.{suggestion(name, known)} It has: '
                f'{", ".join(known)}'
            )
    return AutoModel.from_config(AutoConfig.for_model(kind, **options))


def _options_of(config: Any) -> list[str]:
    """What a transformers configuration takes; it would keep anything else without a word."""
    taken = set(inspect.signature(type(config).__init__).parameters)
    taken |= {'attn_implementation', *config.to_dict(), *config.attribute_map}
    return sorted(k for k in taken if k not in ('self', 'kwargs') and not k.startswith('_'))


def _from_pretrained(model: str, pooling: str) -> Any:
    from transformers import AutoModel

    local = model.startswith(PACKAGE) or Path(model).expanduser().exists()
    place = str(resolve_resource(model)) if local else model
    try:
        net, report = AutoModel.from_pretrained(
            place, dtype=torch.float32, output_loading_info=True
        )
    except Exception as e:
        reason = f'({type(e).__name__}: {e})'
        if local:
            raise ValueError(
                f'HFTextEncoder: {model!r} is no readable model folder (config.json and '
                f'model.safetensors of a transformers model are expected) {reason}'
            ) from e
        raise RuntimeError(
            f'HFTextEncoder: {model!r} is no local folder and could not be fetched from the hub '
            f'{reason}. Give model=FOLDER, model="package:NAME/folder" or config=dict(...)'
        ) from e
    lost = [k for k in report['missing_keys'] if pooling == 'pooler' or 'pooler' not in k]
    if lost:
        raise ValueError(
            f'HFTextEncoder: the weights of {model!r} lack {len(lost)} tensors of '
            f'{type(net).__name__} ({", ".join(sorted(lost)[:3])}); '
            f'with a missing pooler take pooling="mean" or "cls"'
        )
    return net


def _train_last(net: Any, count: int) -> None:
    """Let only the last ``count`` layers and the pooler learn."""
    depth = int(net.config.num_hidden_layers)
    if not 0 <= count <= depth:
        raise ValueError(f'trainable_layers must be in [0, {depth}], got {count}')
    stacks = [m for m in net.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not stacks:
        raise ValueError(
            f'trainable_layers: {net.config.model_type!r} has no list of {depth} layers; '
            f'use frozen=True or None'
        )
    net.requires_grad_(False)
    for stack in _beside(net, stacks[0]):
        for layer in list(stack)[depth - count :]:
            layer.requires_grad_(True)
    pooler = getattr(net, 'pooler', None)
    if pooler is not None:
        pooler.requires_grad_(True)


def _beside(net: nn.Module, stack: nn.ModuleList) -> list[nn.ModuleList]:
    """``stack`` and the lists of its length next to it: XLM has one for each part of a layer."""
    parent = next(m for m in net.modules() if any(c is stack for c in m.children()))
    lists = [c for c in parent.children() if isinstance(c, nn.ModuleList)]
    return [c for c in lists if len(c) == len(stack)]
