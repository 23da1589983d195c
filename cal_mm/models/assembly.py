"""Building a model's parts from their configs, and what to check once they are there."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cal_mm.models.noise import isolated_rng
from cal_mm.registry import BOTTLENECKS, MODELS
from cal_mm.structures import TrainProgress

__all__ = ['NonFiniteLossError', 'build_bottlenecks', 'build_heads', 'check_finite_loss', 'width']


class NonFiniteLossError(FloatingPointError):
    """A loss term is NaN or infinite; the message names the terms and the samples."""


def width(module: Any) -> int:
    """Number of channels that ``module`` gives."""
    return int(module.out_channels)


def build_bottlenecks(cfg: Mapping | None, widths: Mapping[str, int]) -> nn.ModuleDict:
    """A bottleneck per modality.

    Args:
        cfg: one config for all, or one per modality; None: the identity.
        widths: H_m by modality.

    Raises:
        ValueError: configs per modality, and some are missing.
    """
    cfg = cfg or dict(type='IdentityBottleneck')
    if 'type' not in cfg and set(widths) - set(cfg):
        raise ValueError(
            f'model.bottleneck needs either a type or one config per modality; '
            f'{sorted(set(widths) - set(cfg))} missing'
        )
    return nn.ModuleDict(
        {
            m: BOTTLENECKS.build(
                dict(cfg) if 'type' in cfg else cfg[m], default_args=dict(in_channels=in_channels)
            )
            for m, in_channels in widths.items()
        }
    )


def build_heads(cfg: Any, widths: Mapping[str, int], num_classes: int) -> nn.ModuleDict | None:
    """A unimodal head per modality, or None where ``cfg`` is.

    With a generator of their own: a model with heads starts from the same encoders as one without.

    Raises:
        ValueError: ``cfg`` is a word that means nothing.
    """
    if cfg is None:
        return None
    if isinstance(cfg, str):
        raise ValueError(f"model.unimodal_head must be a config, 'fusion' or None, got {cfg!r}")
    with isolated_rng('heads'):
        return nn.ModuleDict(
            {
                m: MODELS.build(
                    cfg, default_args=dict(in_channels=in_channels, num_classes=num_classes)
                )
                for m, in_channels in widths.items()
            }
        )


def check_finite_loss(
    log_vars: Mapping[str, Tensor],
    progress: TrainProgress | None,
    calls: Tensor,
    sample_ids: list[str],
) -> None:
    """Refuse a total that is not finite, before any parameter moves.

    Args:
        log_vars: every term by name, on the CPU, the total under ``loss``.
        progress: how far training has come.
        calls: forward calls so far, for a model outside a Runner.
        sample_ids: of the batch.

    Raises:
        NonFiniteLossError: names the terms and the samples.
    """
    if torch.isfinite(log_vars['loss']):
        return
    bad = [f'{k} = {v.item():g}' for k, v in log_vars.items() if not torch.isfinite(v)]
    where = f'update {progress.update}' if progress else f'call {int(calls)}'
    raise NonFiniteLossError(
        f'the loss is not finite in {where} (epoch {progress.epoch + 1 if progress else "?"}): '
        f'{", ".join(bad)}; samples {", ".join(sample_ids)}. No parameter was updated with it and '
        f'the last checkpoint is untouched. Look at these samples (tools/browse_dataset.py), lower '
        f'the learning rate, or clip gradients (optim_wrapper.clip_grad).'
    )
