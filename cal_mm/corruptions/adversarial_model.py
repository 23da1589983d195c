"""The model as an attack sees it: a loss per sample that can be differentiated, and no trace."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cal_mm.wrapping import unwrap

from .adversarial_functional import log_odds_against

__all__ = ['Victim', 'undisturbed']


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Inside, ``model`` evaluates in float32 with gradients and frozen encoders pass them on.

    Modes, the global generators and what the preprocessor has recorded are as before afterwards.
    Parameters and their ``.grad`` are never touched: the attack asks for gradients of its inputs.
    """
    # imported late: the data side, which also imports corruptions, does without models
    from cal_mm.models.modes import differentiable, evaluating

    device = device_of(model)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        cuda = [device] if device.type == 'cuda' else []
        stack.enter_context(torch.random.fork_rng(cuda))
        stack.enter_context(evaluating(model))
        stack.enter_context(differentiable(model))
        quiet = getattr(model.data_preprocessor, 'not_recording', None)
        if quiet is not None:
            stack.enter_context(quiet())
        if any(isinstance(m, nn.RNNBase) for m in model.modules()):
            # cuDNN has no backward of recurrent layers in evaluation mode
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def device_of(model: Any) -> torch.device:
    """Where the model's preprocessor puts its batches."""
    device = getattr(model.data_preprocessor, 'device', None)
    return device if isinstance(device, torch.device) else torch.device('cpu')


class Victim:
    """Losses of a batch's samples as a function of what an attack puts in.

    What is not attacked is encoded once.

    Args:
        model: with a ``data_preprocessor``; a ``MultiModalClassifier``, or any model whose
            ``forward(..., mode='tensor')`` gives logits [B, C].
        batch: collated.
        attacked: names of the modalities that the attack changes.

    Raises:
        ValueError: a sample without label, or a value of which only a cached feature is there.
    """

    def __init__(self, model: Any, batch: Mapping[str, Any], attacked: Sequence[str]) -> None:
        self.model = model
        self.batch = self._without_features(batch, attacked)
        self.device = device_of(model)
        samples = batch['data_samples']
        unknown = next((s.sample_id for s in samples if 'gt_label' not in s), None)
        if unknown is not None:
            raise ValueError(f'an attack needs the true label, and sample {unknown!r} has none')
        self.labels = torch.stack([s.gt_label for s in samples]).to(self.device)
        with torch.no_grad():
            self.clean = model.data_preprocessor(self.batch, training=False)
            self.fixed = self._encoded(attacked)

    @staticmethod
    def _without_features(batch: Mapping[str, Any], attacked: Sequence[str]) -> dict[str, Any]:
        features = batch.get('features') or {}
        for m in attacked:
            for i, sample in enumerate(batch['data_samples']):
                if m in features and features[m][i] is not None and batch['inputs'][m][i] is None:
                    raise ValueError(
                        f'modality {m!r} of sample {sample.sample_id!r} is there as a cached '
                        f'feature of its frozen encoder only; an attack needs the value itself: '
                        f'test without the feature cache'
                    )
        return {**batch, 'features': {m: f for m, f in features.items() if m not in attacked}}

    def _encoded(self, attacked: Sequence[str]) -> dict[str, Tensor]:
        """Features of what stays as it is, where model and preprocessor take them."""
        from cal_mm.models import MultiModalPreprocessor

        simple = isinstance(self.model.data_preprocessor, MultiModalPreprocessor)
        if not simple or not hasattr(self.model, 'prediction_logits'):
            return {}
        rest = [m for m in self.model.modalities if m not in attacked]
        names = ('inputs', 'masks', 'features', 'embedding_shifts')
        return self.model.encode(**{k: self.clean.get(k) for k in names}, modalities=rest)

    def losses(self, inputs: Mapping[str, Any], shifts: Mapping[str, Tensor]) -> Tensor:
        """log-odds against the label, float64 [B].

        Args:
            inputs: lists of values of the attacked modalities, which take the batch's place.
            shifts: [B, L, E] to add to the token embeddings of attacked texts.
        """
        kept = {m: v for m, v in self.batch['inputs'].items() if m not in self.fixed}
        step = {**self.batch, 'inputs': {**kept, **inputs}}
        step['features'] = {**self.batch['features'], **self.fixed}
        earlier = self.batch.get('embedding_shifts') or {}
        # the shifts of what is encoded already are in its features
        step['embedding_shifts'] = {
            **{m: s for m, s in earlier.items() if m not in self.fixed},
            **shifts,
        }
        data = self.model.data_preprocessor(step, training=False)
        if 'present' in self.clean:
            data['present'] = self.clean['present']
        return log_odds_against(self._logits(data), self.labels)

    def _logits(self, data: dict[str, Any]) -> Tensor:
        if hasattr(self.model, 'prediction_logits'):
            return self.model.prediction_logits(**data)
        logits = self.model(**data, mode='tensor')
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ValueError(
                f'an attack needs logits [B, C] from {type(self.model).__name__}.forward(..., '
                f"mode='tensor'), got {type(logits).__name__}"
            )
        return logits


def attackable(model: Any) -> Any:
    """The model behind a distributed wrapper.

    Raises:
        ValueError: there is no model with a preprocessor.
    """
    model = unwrap(model)
    if not isinstance(getattr(model, 'data_preprocessor', None), nn.Module):
        raise ValueError(
            'an attack is computed from the model: call attack(batch, model) with a model that has '
            'a data_preprocessor, or use tools/test.py --attack'
        )
    return model
