"""What the model takes over from the training data before the first iteration."""

from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook

from cal_mm.datasets import column_of
from cal_mm.registry import HOOKS
from cal_mm.wrapping import unwrap

from ..averaged import follow_buffers

__all__ = ['DataStatisticsHook']


@HOOKS.register_module()
class DataStatisticsHook(Hook):
    """Class prior, and the statistics of front ends that standardise, from the training data alone.

    Both are buffers of the model, so they travel in the checkpoint.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Fit, on every rank alike."""
        model = unwrap(runner.model)
        dataset = runner.train_dataloader.dataset
        labels = column_of(dataset, 'labels')
        takes_prior = hasattr(model, 'set_class_prior')
        if takes_prior and labels is not None:
            counts = np.bincount(labels, minlength=model.num_classes)
            _check_classes(model.num_classes, int(labels.max()) + 1, dataset)
        preprocessor: Any = getattr(model, 'data_preprocessor', None)
        if hasattr(preprocessor, 'fit'):
            preprocessor.fit(dataset)
        if takes_prior and labels is not None:
            model.set_class_prior(torch.as_tensor(counts))
        follow_buffers(runner, resized=True)
        if takes_prior and labels is None:
            runner.logger.warning(
                f'{type(dataset).__name__} does not tell its labels (property `labels`, int [N]): '
                f'the class prior stays uniform'
            )


def _check_classes(model: int, data: int, dataset: Any) -> None:
    """The model's outputs against the data's classes, and against the labels that are there."""
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes') or range(model)
    if len(names) < data:
        names = range(data)
    if len(names) != model:
        raise ValueError(
            f'model.num_classes is {model}, but the training data have {len(names)} classes: '
            f'{", ".join(map(str, names))}; set model.num_classes={len(names)}'
        )
