"""What the model takes over from the training data before the first iteration."""

from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook

from cal_mm.datasets import column_of, described_datasets
from cal_mm.registry import HOOKS
from cal_mm.wrapping import unwrap

from ..averaged import follow_buffers

__all__ = ['DataStatisticsHook']


@HOOKS.register_module()
class DataStatisticsHook(Hook):
    """Class prior, and the statistics of front ends that standardise, from the training data alone.

    Both are buffers of the model, so they travel in the checkpoint. Data that the model does not
    fit are refused: other classes in training, another sample rate than a front end's in any part.
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
        _check_rates(model, dataset, 'train')
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

    def before_val(self, runner: Any) -> None:
        """Check the validation data."""
        _check_loop(runner, runner.val_loop, 'val')

    def before_test(self, runner: Any) -> None:
        """Check the test data."""
        _check_loop(runner, runner.test_loop, 'test')


def _check_loop(runner: Any, loop: Any, part: str) -> None:
    if loop is not None:  # a study runs loops that the runner does not know
        _check_rates(unwrap(runner.model), loop.dataloader.dataset, part)


def _check_rates(model: Any, dataset: Any, part: str) -> None:
    """The sample rates that the front ends are built for against those of the data, in Hz."""
    front_ends = getattr(getattr(model, 'data_preprocessor', None), 'frontends', None) or {}
    for described in described_datasets(dataset):
        modalities = described.metainfo['modalities']
        for name in sorted({*modalities} & {*front_ends}):
            found = modalities[name].get('sample_rate')
            expected = getattr(front_ends[name], 'sample_rate', None)
            if None not in (found, expected) and found != expected:
                raise ValueError(
                    f'model.data_preprocessor.frontends.{name}.sample_rate is {expected}, but '
                    f'{part}_dataloader gives {name} with {found} Hz; set it to {found}, or '
                    f'sample_rate={expected} in LoadAudio (in {part}_dataloader.dataset.pipeline)'
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
