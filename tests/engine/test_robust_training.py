"""Training with noise and dropped modalities, frozen encoders in it, and gates on what comes out.

In this process, on a tiny synthetic dataset.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from builders import CAL, batch, build, samples
from cli_runner import ROOT, call, own_name
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from scipy.optimize import minimize_scalar
from torch.nn import functional as F
from torch.utils.data import DataLoader

from cal_mm.compat import load_trusted_types
from cal_mm.engine.hooks.calibration import CalibrationHook
from cal_mm.engine.hooks.feature_cache import draws_at_random, with_dataset
from cal_mm.models.encoders.cache import CachedFeatureDataset, FeatureStore
from cal_mm.models.gates import GATE_NAMES
from cal_mm.registry import DATASETS
from data_prep.synthetic import make_synthetic

LOAD = [dict(type='LoadFeatures', modality=m) for m in 'abc']
PACK = [dict(type='PackInputs', modalities=('a', 'b', 'c'))]
NOISE = dict(
    type='CorruptSample',
    probability=0.5,
    corruptions=[dict(type='FeatureGaussianNoise', modality=m) for m in 'ab'],
)
DROP = dict(type='RandomModalityDrop', probabilities=dict(a=0.3, b=0.3))
RARE = dict(type='RandomModalityDrop', probabilities=dict(a=1e-9))
ELSEWHERE = dict(type='RandomModalityDrop', probabilities=dict(c=1e-9))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'synthetic'
    make_synthetic(out, num_train=96, num_val=32, num_test=32, signal=5.0)
    return out


@pytest.fixture
def config(data, tmp_path):
    """Writes a config on the synthetic data, with augmentation."""

    def write(method='cal_paper', steps=(NOISE, DROP), **model):
        pipeline = [*LOAD, *steps, *PACK]
        roots = ''.join(
            f'{s}_dataloader = dict(dataset=dict(data_root={str(data)!r}))\n'
            for s in ('val', 'test')
        )
        path = tmp_path / f'{method}.py'
        path.write_text(
            f"_base_ = ['{ROOT}/configs/{method}/synthetic_mlp_concat_{method}.py']\n"
            f'train_dataloader = dict(collate_fn=dict(type="collate_batch"), dataset=dict('
            f'data_root={str(data)!r}, pipeline={pipeline!r}))\n{roots}model = dict(**{model!r})\n'
        )
        return path

    return write


def train(config, work_dir, *options):
    code, out, err = call(
        'train', config, '--work-dir', work_dir, '--cfg-options', own_name(), *options
    )
    assert code == 0, out[-2000:] + err[-2000:]
    return load_trusted_types(str(work_dir / 'epoch_3.pth'), 'cpu')['state_dict']


def gap(a, b):
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a if a[k].numel())


def test_draws_are_noticed_however_rare(data):
    def draws(*steps, **kwargs):
        found = dict(type='MultiModalDataset', data_root=str(data), pipeline=[*LOAD, *steps, *PACK])
        return draws_at_random(DATASETS.build({**found, 'split': 'train', **kwargs}), ['a', 'b'])

    assert not draws()
    assert draws(RARE)
    assert draws(NOISE)
    assert not draws(ELSEWHERE)
    assert not draws(RARE, test_mode=True)  # always the same draw


@pytest.mark.parametrize('absent', ['mean', 'token'])
def test_absent_values_learn_from_dropped_modalities(absent):
    fusion = dict(type='ConcatFusion', absent=absent)
    found = {}
    for name, missing in (('plain', []), ('dropped', [(i, 'a') for i in range(0, 16, 3)])):
        model = build(fusion=fusion)
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        for step in range(3):
            model.train_step(batch(16, seed=step, missing=missing), wrapper)
        found[name] = {m: model.fusion.absent_value(m).detach() for m in 'ac'}
    assert not torch.equal(found['dropped']['a'], found['plain']['a'])
    # a mean needs no dropped sample; a token learns from nothing else
    assert (float(found['plain']['a'].abs().max()) > 0) == (absent == 'mean')
    if absent == 'token':
        assert float(found['dropped']['a'].abs().max()) > 0
        assert float(found['dropped']['c'].abs().max()) == 0  # never missing


@pytest.mark.slow
def test_workers_draw_the_same(config, tmp_path):
    path = config()
    alone = train(path, tmp_path / '0')
    options = ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']
    assert gap(alone, train(path, tmp_path / '2', *options)) == 0


@pytest.mark.slow
def test_frozen_encoders_encode_what_comes_back_once(config, tmp_path, memos):
    path = config('concat_uni', encoders={m: dict(frozen=True) for m in 'abc'})
    with_memo = train(path, tmp_path / 'memo')
    (memo,) = memos
    # three epochs of 96: 'c' is never touched, the others in about a quarter of the samples
    assert memo.encoded['c'] == 96
    assert 96 < memo.encoded['a'] < 96 * 2
    plain = train(path, tmp_path / 'plain', 'default_hooks.feature_cache.memo_bytes=0')
    assert len(memos) == 1
    assert gap(with_memo, plain) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    'steps', [(), (dict(type='RandomModalityDrop', probabilities=dict(c=0.3)),)]
)
def test_what_is_not_frozen_is_read_beside_cached_features(config, tmp_path, steps):
    frozen = {m: dict(frozen=True) for m in 'ab'}
    # a draw for a, which never hits, after those for c: nothing is cached
    path = config('concat_uni', (*steps, RARE), encoders=frozen)
    plain = train(path, tmp_path / 'plain' / 'run', 'default_hooks.feature_cache.memo_bytes=0')
    path = config('concat_uni', steps, encoders=frozen)
    for workers in (0, 2):
        option = f'train_dataloader.num_workers={workers}'
        assert gap(plain, train(path, tmp_path / f'cached{workers}' / 'run', option)) < 1e-5
        stores = (tmp_path / f'cached{workers}' / 'feature_cache').glob('*.safetensors')
        assert sorted(p.name[0] for p in stores) == ['a', 'a', 'b', 'b']  # training, validation


def test_only_cached_features_alone_need_no_workers(data):
    pipeline = [*LOAD, *PACK]
    dataset = DATASETS.build(
        dict(type='MultiModalDataset', data_root=str(data), split='train', pipeline=pipeline)
    )
    loader = DataLoader(
        dataset, batch_size=8, num_workers=2, persistent_workers=True, prefetch_factor=3
    )
    stores = {m: FeatureStore(m, m, dataset.sample_ids, torch.zeros(96, 2)) for m in 'abc'}
    alone = with_dataset(loader, CachedFeatureDataset(dataset, stores))
    assert alone.num_workers == 0
    some = {m: stores[m] for m in 'ab'}
    mixed = with_dataset(loader, CachedFeatureDataset(dataset, some, 'abc'))
    kept = (mixed.num_workers, mixed.persistent_workers, mixed.prefetch_factor, mixed.batch_size)
    assert kept == (2, True, 3, 8)


def test_one_checkpoint_serves_every_gate(config, tmp_path):
    path = config()
    train(path, tmp_path / 'work')
    checkpoint = tmp_path / 'work' / 'epoch_3.pth'
    printed = {}
    for gate in GATE_NAMES:
        code, out, err = call(
            'test', path, checkpoint, '--gate', gate, '--drop', 'a', '--work-dir', tmp_path / 'w',
            '--bootstrap', 0, '--cfg-options', own_name(),
        )  # fmt: skip
        assert code == 0, err[-2000:]
        printed[gate] = [line for line in out.splitlines() if line.startswith(('clean', 'drop a'))]
    assert len({str(rows) for rows in printed.values()}) == len(GATE_NAMES)
    code, out, err = call(
        'test', path, checkpoint, '--work-dir', tmp_path / 'w', '--bootstrap', 0, '--cfg-options',
        own_name(), 'model.gate=evidence',
    )  # fmt: skip
    assert code == 0, err[-2000:]
    clean = printed['evidence'][0].split()
    assert clean in [line.split() for line in out.splitlines()]


@pytest.mark.slow
def test_a_gate_that_the_checkpoint_cannot_serve_is_refused(config, tmp_path):
    path = config('concat')
    train(path, tmp_path / 'work')
    checkpoint = tmp_path / 'work' / 'epoch_3.pth'
    for gate, status, message in (
        ('confidence', 1, 'ConfidenceGate needs model.unimodal_head'),
        ('uncertainty', 1, 'needs bottlenecks with a KL'),
        ('contribution', 1, 'ContributionGate needs model.contribution'),
        ('uncertanty', 2, "Did you mean 'uncertainty'"),
    ):
        code, _, err = call(
            'test', path, checkpoint, '--gate', gate, '--work-dir', tmp_path / 'w',
            '--cfg-options', own_name(),
        )  # fmt: skip
        assert code == status
        assert message in err
        assert 'Traceback' not in err
    path = config()
    few = ['default_hooks.calibration.max_samples=4', 'val_dataloader.batch_size=4']
    train(path, tmp_path / 'cal', *few)  # too few to fit anything
    checkpoint = tmp_path / 'cal' / 'epoch_3.pth'
    code, _, err = call(
        'test', path, checkpoint, '--gate', 'uncertainty', '--work-dir', tmp_path / 'w',
        '--cfg-options', own_name(),
    )  # fmt: skip
    assert code == 1
    assert 'posteriors were never fitted' in err


class Batches(list):
    """Collated batches as a loader."""

    @property
    def dataset(self):
        return [sample for b in self for sample in b['data_samples']]


def test_calibration_leaves_missing_values_out(config, tmp_path):
    """Validation samples that lack a modality do not enter its statistics."""
    from mmengine.runner import Runner

    from cal_mm.config import load_config

    cfg = load_config(str(config()), {'experiment_name': own_name().split('=')[1]})
    cfg.work_dir = str(tmp_path / 'work')
    runner = Runner.from_cfg(cfg)
    model, hook = runner.model.eval(), CalibrationHook()
    whole = list(runner.val_dataloader)
    half = [dict(b, inputs={m: list(v) for m, v in b['inputs'].items()}) for b in whole]
    for b in half:
        for i in range(0, len(b['data_samples']), 2):
            b['inputs']['a'][i] = None
    few = [
        {
            'inputs': {m: v[1::2] for m, v in b['inputs'].items()},
            'data_samples': b['data_samples'][1::2],
        }
        for b in whole
    ]
    found = []
    for batches in (half, few):
        hook._calibrate(SimpleNamespace(val_dataloader=Batches(batches)), model)
        tracker, typicality = model.contribution, model.contribution.typicality['a']
        found.append(
            torch.cat(
                [
                    model.uncertainty.centre[0],
                    model.uncertainty.spread[0],
                    tracker.temperature[:1],
                    tracker.told[:1],
                    typicality.mean,
                    typicality.centre,
                ]
            ).clone()
        )
        assert bool((tracker.told != 0).all())
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def fitted(model, rows, **kwargs):
    """The calibrated model's buffers, and what the hook warned of."""
    warned = []
    hook = CalibrationHook(**kwargs)
    runner = SimpleNamespace(
        val_dataloader=DataLoader(rows, batch_size=16, collate_fn=pseudo_collate),
        logger=SimpleNamespace(warning=warned.append),
    )
    for _ in range(2):
        hook._calibrate(runner, model)
    return {k: v.clone() for k, v in model.state_dict().items() if 'contribution' in k}, warned


def test_calibration_by_scipy():
    """Of a model that is far too sure after some updates: what it says, and what that tells."""
    model, rows = build(**CAL), samples(200)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = model.data_preprocessor(batch(100, seed=1))
    for _ in range(30):
        optimizer.zero_grad()
        model.parse_losses(model(**data, mode='loss'))[0].backward()
        optimizer.step()
    with torch.no_grad():
        for p in [*model.heads.parameters(), *model.fusion.parameters()]:
            p.mul_(10)
        fitted(model.eval(), rows)
        state = model.state(**model.data_preprocessor(pseudo_collate(rows)))
        alone = {m: model.heads[m](state.mu[m]) for m in 'abc'}

    def best(logits):
        def cost(v):
            return float(F.cross_entropy(logits.double() / math.exp(v), state.labels))

        found = minimize_scalar(cost, bounds=(math.log(0.1), math.log(100)), method='bounded')
        return math.exp(found.x), found.fun

    tracker = model.contribution
    temperature, _ = best(state.logits)
    assert float(tracker.fused_temperature) == pytest.approx(temperature, rel=0.07)
    of_prior = float(-model.class_log_prior[state.labels].mean())
    for found, told, m in zip(tracker.temperature, tracker.told, 'abc', strict=True):
        temperature, cost = best(alone[m])
        assert float(found) == pytest.approx(temperature, rel=0.07)
        assert float(told) == pytest.approx(1 - cost / of_prior, abs=2e-3)
    assert float(tracker.told[0]) > 0.2


def test_calibration_sees_every_class_of_a_sorted_validation_set():
    rows = sorted(samples(300), key=lambda row: int(row['data_samples'].gt_label))
    model = build(**CAL)
    fitted(model, rows, max_samples=60)
    for m in 'abc':
        assert model.contribution.typicality[m].class_means.isfinite().all()
    everything, warned = fitted(model, rows)
    assert not warned
    again, _ = fitted(model, rows, max_samples=300)
    assert all(torch.equal(v, again[k]) for k, v in everything.items())


def test_too_few_validation_samples_of_a_modality_are_told_and_testable(monkeypatch):
    told = []
    monkeypatch.setattr(
        'cal_mm.models.classifier.print_log', lambda text, *args, **kwargs: told.append(text)
    )
    for rows, few in (
        (samples(40, missing=[(i, 'b') for i in range(37)]), ['b (3 samples)']),
        (samples(40, missing=[(i, 'b') for i in range(40)]), ['b (0 samples)']),
        (samples(5), ['a (5 samples)', 'b (5 samples)', 'c (5 samples)']),
    ):
        model = build(**CAL, gate='pool').eval()
        with pytest.raises(ValueError, match='typicality of the features was never fitted'):
            model.check_gate()
        model.contribution.measured.fill_(True)
        model.data_preprocessor(batch(4), False)  # training has shown every modality's shape
        _, warned = fitted(model, rows)
        (text,) = warned  # once
        assert ', '.join(few) in text
        none = '(0 samples)' in text
        assert ("does not count in the gate 'pool'" in text) == none
        assert ('come from these alone' in text) == (not none)
        told.clear()
        model.check_gate()
        (text,) = told
        assert f'the typicality of {", ".join(f[0] for f in few)} was not fitted' in text
        assert ('prediction of b alone is worth: it does not count' in text) == none
        assert float(model.contribution.typicality['b'](torch.randn(4, 10)).min()) == 1
        model.use_gate('uncertainty')
        with pytest.raises(ValueError, match='takes 8 validation samples with every modality'):
            model.check_gate()


def test_frozen_encoders_tell_where_their_training_features_lie(config, tmp_path):
    """Not those that learn, and not where the training pipeline draws at random."""
    from mmengine.runner import Runner

    from cal_mm.config import load_config

    def typicality(steps, folder, **encoders):
        path = config(steps=steps, encoders=encoders)
        cfg = load_config(str(path), {'experiment_name': own_name().split('=')[1] + folder})
        cfg.work_dir = str(tmp_path / folder)
        runner = Runner.from_cfg(cfg)
        hook = CalibrationHook(max_samples=40)
        hook.before_train(runner)
        known = sorted(hook._reference)
        rows = {m: len(features) for m, (features, _) in hook._reference.items()}
        hook._calibrate(runner, runner.model)
        assert not hook._reference  # used up
        return known, rows, runner.model.contribution.typicality

    frozen = dict(a=dict(frozen=True), c=dict(frozen=True))
    known, rows, plain = typicality((), 'plain', **frozen)
    assert (known, rows) == (['a', 'c'], dict(a=32, c=32))  # every third of 96
    known, _, noisy = typicality((NOISE,), 'noisy', **frozen)
    assert known == ['c']
    same_weights = typicality((), 'again', **frozen)[2]
    assert torch.equal(plain['a'].components, same_weights['a'].components)
    assert not torch.equal(plain['a'].components, noisy['a'].components)


def test_an_average_of_the_weights_is_calibrated_itself(config, tmp_path):
    """What EMAHook saves is calibrated on the averaged weights, not on the last ones."""
    from mmengine.runner import Runner

    from cal_mm.config import load_config

    path = config('cal', steps=())
    path.write_text(path.read_text() + "custom_hooks = [dict(type='EMAHook', momentum=0.05)]\n")
    train(path, tmp_path / 'run')
    checkpoint = load_trusted_types(str(tmp_path / 'run/epoch_3.pth'), 'cpu')
    averaged, last = checkpoint['state_dict'], checkpoint['ema_state_dict']
    assert gap(averaged, {k: last[f'module.{k}'] for k in averaged}) > 1e-3
    cfg = load_config(str(path), {'experiment_name': own_name().split('=')[1]})
    cfg.work_dir = str(tmp_path / 'again')
    runner = Runner.from_cfg(cfg)
    names = [k for k in averaged if 'temperature' in k or 'told' in k or 'typicality' in k]
    for part in (averaged, {k.removeprefix('module.'): v for k, v in last.items()}):
        runner.model.load_state_dict({k: v for k, v in part.items() if k in averaged})
        CalibrationHook()._calibrate(runner, runner.model.eval())
        found = {k: runner.model.state_dict()[k].float() for k in names}
        same = gap(found, {k: averaged[k].float() for k in names}) < 1e-4
        assert same == (part is averaged)


@pytest.fixture
def by_iterations(config, tmp_path, monkeypatch):
    """Trains CAL by iterations; returns the runner, and when its weights were calibrated."""
    from mmengine import Config

    from cal_mm.config import load_config
    from cal_mm.study.trial import StudyRunner

    monkeypatch.setattr(Config, 'pretty_text', '')  # half a second in every checkpoint

    def run(train_cfg, checkpoint, resume=None, custom_hooks=(), **model):
        path = config('cal', (), contribution=dict(source='ridge'), **model)
        cfg = load_config(str(path), {'experiment_name': own_name().split('=')[1]})
        cfg.work_dir, cfg.log_level = str(tmp_path / 'work'), 'ERROR'
        cfg.visualizer = dict(type='Visualizer', vis_backends=[], name=cfg.experiment_name)
        cfg.train_dataloader.batch_size, cfg.train_cfg = 8, dict(train_cfg)
        cfg.param_scheduler, cfg.custom_hooks = None, list(custom_hooks)
        cfg.default_hooks.checkpoint.update(by_epoch=False, max_keep_ckpts=-1, **checkpoint)
        if resume:
            cfg.resume, cfg.load_from = True, str(tmp_path / 'work' / resume)
        runner, seen = StudyRunner.from_cfg(cfg), []
        calibrate = CalibrationHook._calibrate

        def noted(hook, runner, model):
            seen.append(runner.iter)
            calibrate(hook, runner, model)

        with monkeypatch.context() as patched:
            patched.setattr(CalibrationHook, '_calibrate', noted)
            runner.train()
        return runner, seen

    return run


def measured_gap(found, expected):
    """Largest difference of what a calibration measures."""
    names = [k for k in expected if 'temperature' in k or 'told' in k or 'typicality' in k]
    return gap({k: found[k].float() for k in names}, {k: expected[k].float() for k in names})


BY_ITERATIONS = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=3)


@pytest.mark.parametrize('average', [(), (dict(type='EMAHook', momentum=0.1),)])
def test_checkpoints_of_a_training_by_iterations_are_calibrated(by_iterations, tmp_path, average):
    runner, seen = by_iterations(BY_ITERATIONS, dict(interval=4), custom_hooks=average)
    # before the validations of 3, 6 and 8, the checkpoints of 4 and 8, and at the end
    assert seen == [3, 3, 6, 7, 8]
    saved = {p.name: p for p in (tmp_path / 'work').glob('*.pth')}
    best = [name for name in saved if name.startswith('best')]
    assert {'iter_4.pth', 'iter_8.pth'} <= {*saved}
    assert len(best) == 1
    for name in ('iter_4.pth', 'iter_8.pth', *best):
        weights = load_trusted_types(str(saved[name]), 'cpu')['state_dict']
        assert bool((weights['contribution.told'] != 0).all())
        runner.model.load_state_dict(weights)
        runner.model.check_gate()
        CalibrationHook()._calibrate(runner, runner.model)
        assert measured_gap(runner.model.state_dict(), weights) < 1e-4
    runner.model.contribution.told.zero_()
    runner.val()  # none of the training's
    assert float(runner.model.contribution.told.abs().max()) == 0


def test_a_resumed_training_by_iterations_is_calibrated(by_iterations, tmp_path):
    frozen = dict(encoders=dict(a=dict(frozen=True)))
    _, seen = by_iterations(BY_ITERATIONS, dict(interval=4), **frozen)
    path = tmp_path / 'work/iter_8.pth'
    whole = load_trusted_types(str(path), 'cpu')['state_dict']
    path.unlink()
    _, again = by_iterations(BY_ITERATIONS, dict(interval=4), 'iter_4.pth', **frozen)
    assert again == seen[2:]
    resumed = load_trusted_types(str(path), 'cpu')['state_dict']
    parts = [k for k in whole if k.startswith('contribution.typicality.a')]
    assert gap({k: whole[k] for k in parts}, {k: resumed[k] for k in parts}) < 1e-6
    assert bool((resumed['contribution.told'] != 0).all())


def test_checkpoints_by_iterations_change_nothing_in_a_training_by_epochs(by_iterations, tmp_path):
    epochs = dict(type='EpochBasedTrainLoop', max_epochs=1)
    runner, seen = by_iterations(epochs, dict(interval=100))
    plain = {k: v.clone() for k, v in runner.model.state_dict().items()}
    assert seen == [11, 12]  # the checkpoint of the last iteration, and the epoch
    runner, seen = by_iterations(epochs, dict(interval=5))
    assert seen == [4, 9, 11, 12]
    assert gap(runner.model.state_dict(), plain) == 0
    weights = load_trusted_types(str(tmp_path / 'work/iter_5.pth'), 'cpu')['state_dict']
    runner.model.load_state_dict(weights)
    CalibrationHook()._calibrate(runner, runner.model)
    assert measured_gap(runner.model.state_dict(), weights) < 1e-4
