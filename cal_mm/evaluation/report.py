"""From a finished test loop to a results file's contents."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .metrics import UNITS, Predictions
from .results import sha256_of, software_versions, text_digest
from .summary import RESAMPLES, summarise

__all__ = ['config_digest', 'describe_results', 'prediction_arrays', 'predictions_path']


def config_digest(cfg: Mapping[str, Any]) -> str:
    """sha256 of the resolved config's values, whatever file and order they come from."""
    return text_digest(json.dumps(cfg, sort_keys=True, default=str))


def describe_results(
    *,
    config: str,
    digest: str,
    checkpoint: str,
    meta: Mapping[str, Any],
    metainfo: Mapping[str, Any] | None,
    split: str,
    rows: Sequence[Mapping[str, Any]],
    predictions: Sequence[Predictions | None] | None = None,
    bootstrap: int = RESAMPLES,
    reference: Mapping[str, Any] | None = None,
    reference_source: Mapping[str, Any] | None = None,
    inference: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What :func:`cal_mm.evaluation.save_results` writes.

    Args:
        config: path of the config file.
        digest: of the resolved config, see :func:`config_digest`.
        checkpoint: path of the checkpoint.
        meta: the checkpoint's meta information.
        metainfo: the dataset's.
        split: 'val' or 'test', as it was asked for.
        rows: the loop's.
        predictions: the loop's, of each row.
        bootstrap: resamples behind the intervals; 0: none.
        reference: results that mCE refers to.
        reference_source: where these came from.
        inference: ``gate`` and ``adaptation``, how the predictions were made.
    """
    facts = metainfo or {}
    arrays = [
        None if p is None else prediction_arrays(p) for p in predictions or [None] * len(rows)
    ]
    return {
        'config': {'path': config, 'sha256': digest},
        'checkpoint': {
            'path': checkpoint,
            'sha256': sha256_of(checkpoint),
            'epoch': meta.get('epoch'),
            'iter': meta.get('iter'),
        },
        'dataset': {
            'name': facts.get('dataset'),
            'version': facts.get('version'),
            'protocol': facts.get('protocol'),
            'digest': facts.get('digest'),
            'split': facts.get('split'),
            'classes': [str(c) for c in facts.get('classes') or ()],
        },
        'split': split,
        'inference': dict(inference or {}),
        'num_samples': rows[0]['num_samples'] if rows else 0,
        'units': dict(UNITS),
        'software': software_versions(),
        'summary': summarise(
            rows,
            arrays,
            resamples=bootstrap,
            reference=reference,
            reference_source=reference_source,
        ),
        'rows': list(rows),
    }


def prediction_arrays(predictions: Predictions) -> dict[str, np.ndarray | None]:
    """Per-sample arrays for :func:`cal_mm.evaluation.save_predictions`."""

    def array(value: torch.Tensor | None) -> np.ndarray | None:
        return None if value is None else value.numpy()

    return {
        'sample_ids': np.array(predictions.sample_ids),
        'groups': np.array(predictions.groups) if any(predictions.groups) else None,
        'labels': array(predictions.labels),
        'scores': array(predictions.scores),
        'predicted': array(predictions.predicted),
        'contribution': array(predictions.contribution),
    }


def predictions_path(out: str | Path) -> Path:
    """Where the per-sample predictions of the results file ``out`` go: beside it, ``.npz``.

    ``.predictions.npz`` takes the place of ``.json`` and follows any other name.
    """
    path = Path(out)
    return path.with_name(f'{path.name.removesuffix(".json")}.predictions.npz')
