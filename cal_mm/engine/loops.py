"""``RobustnessTestLoop``: one model, tested clean and then under every noise condition."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import TestLoop
from mmengine.runner.amp import autocast
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, SequentialSampler

from cal_mm.corruptions import CLEAN, Condition, CorruptedDataset
from cal_mm.corruptions.adversarial_attack import act
from cal_mm.corruptions.plan import modality_facts, plan_conditions
from cal_mm.datasets.kept import KeptItems
from cal_mm.evaluation.functional import per_class_accuracy
from cal_mm.evaluation.metrics import MultiModalMetric, Predictions
from cal_mm.registry import ADAPTERS, DATASETS, LOOPS
from cal_mm.wrapping import unwrap

from .adaptation import Adapter
from .feature_memo import FeatureMemo

__all__ = ['RobustnessTestLoop', 'state_fingerprint']

_TAKEN_DOWN = ('data_preprocessor.seen', 'data_preprocessor.seen_widths')


def state_fingerprint(model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Sum and sum of squares of every parameter and buffer, to notice that one was changed.

    The shapes that the preprocessor takes down from the first batch are left out: where features
    come from a cache, the attacked batch may be the first to go through a front end.
    """
    found = {}
    for name, value in model.state_dict().items():
        if name.endswith(_TAKEN_DOWN):
            continue
        if isinstance(value, torch.Tensor) and value.numel():
            double = value.detach().double()
            found[name] = (float(double.sum()), float(double.square().sum()))
    return found


@LOOPS.register_module()
class RobustnessTestLoop(TestLoop):
    """Test clean, then under each attack, dropped modality and protocol condition.

    The dataset is built once, and its samples are decoded once as far as they fit into memory.
    Sample-wise corruptions act inside the workers, right after packing; attacks that need the model
    act on the collated batch after them. Encoders encode every value once, in whichever conditions
    it comes back (``FeatureMemo``; under an adapter or FSDP only frozen ones). Afterwards ``rows``
    holds a dictionary per condition (docs/results_schema.md), ``predictions`` what it was computed
    from.

    Args:
        runner: the runner.
        dataloader: config or loader; corruptions act on the batches of a loader already built.
        evaluator: config or evaluator, usually a ``MultiModalMetric``.
        fp16: autocast in the forward pass.
        attacks: ``NAME[:SEVERITY][@MODALITY]`` each.
        drop: modalities to leave out, one condition each (``a+b``: both).
        protocol: name of a noise protocol.
        seeds: number of noise seeds; None: the protocol's own, 1 for attacks.
        adaptation: config of a test-time adapter (``dict(type='Tent')``); every condition starts
            again from the checkpoint, and a batch is predicted before it teaches. The samples come
            shuffled, in the same order under every condition and in ``predictions``; a loader
            already built has to do so itself, and one that does not is warned about.
        feature_cache: folder that keeps the features of frozen encoders for later runs, by encoder
            and by the exact value; several processes may use it at once. None: nothing is kept.
        feature_cache_bytes: of the files that it keeps there, at most; those that were not used
            longest go first.

    Raises:
        ValueError: an attack that cannot be, see :func:`cal_mm.corruptions.plan.plan_conditions`.
        LookupError: an unknown corruption, modality or protocol.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        fp16: bool = False,
        attacks: Sequence[str] = (),
        drop: Sequence[str] = (),
        protocol: str | None = None,
        seeds: int | None = None,
        adaptation: dict | None = None,
        feature_cache: str | Path | None = None,
        feature_cache_bytes: int = 2**30,
    ) -> None:
        built = isinstance(dataloader, DataLoader)
        dataset = (
            dataloader.dataset if isinstance(dataloader, DataLoader) else dataloader['dataset']
        )
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        names = getattr(unwrap(runner.model), 'modalities', None)
        self.conditions: list[Condition] = []
        if attacks or drop or protocol:
            metainfo = getattr(dataset, 'metainfo', None)
            self.conditions = plan_conditions(
                modality_facts(metainfo, names),
                attacks,
                drop,
                protocol,
                seeds,
                dataset[0],
                everything=modality_facts(metainfo),
            )
            for corruption in (c for condition in self.conditions for c in condition.corruptions):
                corruption.check_model(unwrap(runner.model))
        self._switch: CorruptedDataset | None = None
        if not built:
            kept = KeptItems(dataset) if self.conditions else dataset
            self._switch = CorruptedDataset(kept, self.conditions)
            dataloader = dict(dataloader, dataset=self._switch)
            if adaptation is not None:
                dataloader['sampler'] = dict(type='DefaultSampler', shuffle=True, seed=0)
            if dataloader.get('num_workers'):
                dataloader.setdefault('persistent_workers', True)
        elif adaptation is not None and _in_order(dataloader):
            runner.logger.warning(
                f'{adaptation.get("type")} learns from batches in the order of the dataset: where '
                f'its classes come one after another, a batch does not stand for the split. Give '
                f'the config of the dataloader, or a loader that shuffles with a fixed seed'
            )
        super().__init__(runner, dataloader, evaluator, fp16)
        self._adapter: Adapter | None = None if adaptation is None else ADAPTERS.build(adaptation)
        self.rows: list[dict[str, Any]] = []
        self.predictions: list[Predictions | None] = []
        self._condition = CLEAN
        self._memo: FeatureMemo | None = None
        self._kept = feature_cache, feature_cache_bytes
        self._noise_seconds = self._model_seconds = 0.0

    def run(self) -> dict[str, float]:
        """Every condition, clean first; the clean metrics are returned."""
        self.rows, self.predictions = [], []
        check_gate = getattr(unwrap(self.runner.model), 'check_gate', None)
        if check_gate is not None:
            check_gate()
        self.runner.call_hook('before_test')
        self.runner.model.eval()
        folder, folder_bytes = self._kept
        model = unwrap(self.runner.model)
        # the weights stay as they are, and each process has all of them
        whole = isinstance(self.runner.model, (type(model), DistributedDataParallel))
        self._memo = FeatureMemo(
            model,
            folder=folder,
            folder_bytes=folder_bytes,
            trained=bool(self.conditions) and self._adapter is None and whole,
        )
        clean: dict[str, float] = {}
        for i, condition in enumerate((CLEAN, *self.conditions)):
            if self.conditions:
                self.runner.logger.info(
                    f'condition {i + 1} of {len(self.conditions) + 1}: {condition.label}'
                    + ('' if condition.seed is None else f' (noise seed {condition.seed})')
                )
            metrics = self._run_condition(condition)
            self._memo.flush()
            if condition is CLEAN:
                clean = metrics
        self._select(CLEAN)
        self._memo = None
        self.runner.call_hook('after_test')
        return clean

    def _select(self, condition: Condition) -> None:
        self._condition = condition
        if self._switch is not None:
            self._switch.select(None if condition is CLEAN else condition)

    def _run_condition(self, condition: Condition) -> dict[str, float]:
        self._select(condition)
        self._noise_seconds = self._model_seconds = 0.0
        touches_model = any(not c.sample_wise for c in condition.corruptions)
        before = state_fingerprint(self.runner.model) if touches_model else None
        self.runner.call_hook('before_test_epoch')
        model = unwrap(self.runner.model)
        if self._adapter is not None:
            self._adapter.start(model)
        try:
            for idx, batch in enumerate(self.dataloader):
                self.run_iter(idx, batch)
        finally:
            if self._adapter is not None:
                self._adapter.stop(model)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        if before is not None and state_fingerprint(self.runner.model) != before:
            raise RuntimeError(
                f'the attack {condition.label} changed the model: an attack must leave parameters, '
                f'buffers and the training flag as they were'
            )
        self._collect(condition, metrics)
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """One batch: corrupt what the workers could not, predict, keep the predictions."""
        data_batch = self._attack(self._remember(self._corrupt(data_batch)))
        self.runner.call_hook('before_test_iter', batch_idx=idx, data_batch=data_batch)
        start = time.perf_counter()
        with autocast(enabled=self.fp16):
            outputs = self.runner.model.test_step(data_batch)
            if self._adapter is not None:
                self._adapter.learn(unwrap(self.runner.model), data_batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._model_seconds += time.perf_counter() - start
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook(
            'after_test_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )

    def _corrupt(self, batch: Any) -> Any:
        if not self._condition.corruptions:
            return batch
        start = time.perf_counter()
        if self._switch is None:
            for corruption in self._condition.corruptions:
                if corruption.sample_wise:
                    batch = corruption(batch, unwrap(self.runner.model))
        self._noise_seconds += time.perf_counter() - start
        self._noise_seconds += sum(
            s.metainfo.get('noise_seconds', 0.0) for s in batch['data_samples']
        )
        return batch

    def _attack(self, batch: Any) -> Any:
        """Attacks on the model, after the rest; what they leave alone may come from the memo."""
        attacks = [c for c in self._condition.corruptions if not c.sample_wise]
        if not attacks:
            return batch
        start = time.perf_counter()
        with torch.enable_grad():
            batch = act(attacks, batch, unwrap(self.runner.model))
        self._noise_seconds += time.perf_counter() - start
        return batch

    def _remember(self, batch: Any) -> Any:
        if self._memo is None:
            return batch
        attacked = [str(c.modality) for c in self._condition.corruptions if not c.sample_wise]
        start = time.perf_counter()
        with autocast(enabled=self.fp16):
            batch = self._memo.serve(batch, attacked)
        self._model_seconds += time.perf_counter() - start  # nearly all of it is the encoders'
        return batch

    def _collect(self, condition: Condition, metrics: dict[str, Any]) -> None:
        """Append the row of ``condition``; timings are summed over the ranks."""
        timings = all_gather_object((self._noise_seconds, self._model_seconds))
        if not is_main_process():
            return
        metric = next((m for m in self.evaluator.metrics if isinstance(m, MultiModalMetric)), None)
        predictions = None if metric is None else metric.predictions
        numbers = {k: _json_number(v) for k, v in metrics.items() if isinstance(v, (int, float))}
        row = {
            **condition.describe(),
            'num_samples': len(self.dataloader.dataset),
            'metrics': {k: v for k, v in numbers.items() if '/' not in k or not _is_weight(k)},
            'contribution': {k.rsplit('/', 1)[1]: v for k, v in numbers.items() if _is_weight(k)},
            'timing': _timing(sum(t[0] for t in timings), sum(t[1] for t in timings)),
        }
        if metric is not None and predictions is not None:
            row['per_class'] = _per_class(metric, predictions)
        self.rows.append(row)
        self.predictions.append(predictions)


def _in_order(loader: Any) -> bool:
    """Whether the loader goes through its dataset from the first sample to the last."""
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    return isinstance(sampler, SequentialSampler) or getattr(sampler, 'shuffle', None) is False


def _is_weight(key: str) -> bool:
    return 'contribution/' in key


def _timing(noise: float, model: float) -> dict[str, float | None]:
    ratio = noise / model if model else None
    return {'noise_seconds': noise, 'model_seconds': model, 'noise_to_model': ratio}


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _per_class(metric: MultiModalMetric, predictions: Predictions) -> dict[str, float | None]:
    classes = predictions.scores.shape[1]
    found = per_class_accuracy(predictions.predicted, predictions.labels, classes)
    return dict(zip(metric.class_names(classes), found, strict=True))
