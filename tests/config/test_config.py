"""Configs: what is refused, and that nothing valid is."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from cal_mm.config import ConfigError, check_config, load_config, parse_option, set_seed
from cal_mm.config.components import takes
from cal_mm.config.loading import names_read

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'configs').rglob('*.py'))

MODEL = """
model = dict(
    type='MultiModalClassifier',
    num_classes=3,
    data_preprocessor=dict(
        type='MultiModalPreprocessor', frontends=dict(a=dict(type='FeatureFrontEnd'))),
    encoders=dict(a=dict(type='MLPEncoder', in_channels=4, hidden_channels=[8], out_channels=6)),
    bottleneck=dict(type='VariationalBottleneck', out_channels=5),
    unimodal_head=dict(type='LinearHead'),
    fusion=dict(type='ConcatFusion'),
    losses=[dict(type='FusedCrossEntropy'), dict(type='AIBLoss', beta=1e-2)],
    contribution=dict(source='train', lam=0.5, typicality=dict(max_rank=4)),
)
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='MultiModalDataset', data_root='x', split='train',
        pipeline=[dict(type='LoadFeatures', modality='a'), dict(type='PackInputs')]))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
optim_wrapper = dict(
    type='CALOptimWrapper', optimizer=dict(type='SGD', lr=0.1),
    modulator=dict(type='AsymmetricAcceleration', gamma=1.0))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=3)]
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
"""

VARIED = """
from functools import partial
custom_imports = dict(imports=['own_parts'], allow_failed_imports=False)
widths = dict(small=8, large=16)
dataset = dict(type='anything at all')
models = [widths['small'], widths['large']]
my_steps = [dict(type='RandomBrightness', of='another library')]
print_me = len(models) + len(my_steps)
model = dict(
    type='OwnModel', whatever=dict(type='in here', is_ours=True),
    inner=dict(type='OwnNet', act=dict(type='gelu'), anything=3))
one = dict(type='MultiModalDataset', data_root='x', split='train', metainfo=dict(type='data'))
train_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=True, pin_memory=True, drop_last=True,
    collate_fn=dict(type='pseudo_collate'), prefetch_factor=4, num_batch_per_epoch=3,
    worker_init_fn=dict(type='mmengine.dataset.worker_init_fn', num_workers=2, rank=0, seed=1),
    batch_sampler=None,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='RepeatDataset', times=2,
        dataset=dict(
            type='ConcatDataset', ignore_keys='split',
            datasets=[one, dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=one)])))
train_cfg = dict(by_epoch=False, max_iters=10, val_interval=2, dynamic_intervals=[(5, 1)])
val_cfg = dict()
val_dataloader = dict(batch_size=4, sampler=dict(type='DefaultSampler'), dataset=one)
val_evaluator = [dict(type='MultiModalMetric'), dict(type='DumpResults', out_file_path='a.pkl')]
test_evaluator = dict(metrics=[dict(type='MultiModalMetric')])
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', loss_scale='dynamic', accumulative_counts=2,
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(head=dict(lr_mult=10))),
    clip_grad=dict(type='value', clip_value=1.0),
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.99), fused=False))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1,
         convert_to_iter_based=True),
    dict(type='MultiStepLR', milestones=[2, 3], gamma=0.1),
    dict(type='CosineAnnealingParamScheduler', param_name='weight_decay', T_max=3, eta_min=0),
    dict(type='OneCycleLR', eta_max=0.1, total_steps=10, by_epoch=False),
    dict(type='ReduceOnPlateauLR', monitor='accuracy/top1', patience=3)]
default_hooks = dict(
    timer=dict(type='IterTimerHook'), logger=None, mine=dict(type='OwnHook', anything=1),
    checkpoint=dict(type='CheckpointHook', interval=2, save_best=['a', 'b'], rule='greater',
                    published_keys=['state_dict']))
custom_hooks = [
    dict(type='EMAHook', ema_type='StochasticWeightAverage', begin_epoch=1),
    dict(type='EMAHook', momentum=0.001, update_buffers=True, priority='NORMAL'),
    dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=3),
    dict(type='ProfilerHook', on_trace_ready=dict(type='log_trace')),
    dict(type='mmengine.EmptyCacheHook', after_iter=True),
    dict(type='own_parts.OwnHook', priority=60)]
auto_scale_lr = dict(enable=True, base_batch_size=16)
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork'), resource_limit=4096,
               dist_cfg=dict(backend='nccl', timeout=1800))
randomness = dict(seed=1, diff_rank_seed=True, deterministic=True)
log_processor = dict(window_size=5, custom_cfg=[dict(data_src='loss', method_name='max')])
visualizer = dict(type='Visualizer', fig_save_cfg=dict(dpi=100), vis_backends=[
    dict(type='WandbVisBackend', init_kwargs=dict(project='p', config=dict(type='nothing'))),
    dict(type='TensorboardVisBackend')])
model_wrapper_cfg = dict(type='MMDistributedDataParallel', find_unused_parameters=True)
work_dir = 'w'
load_from = None
"""

OWN = """
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from cal_mm.registry import HOOKS, MODELS

@HOOKS.register_module(force=True)
class OwnHook(Hook):
    def __init__(self, **options):
        self.options = options

@MODELS.register_module(force=True)
class OwnModel(BaseModel):
    def __init__(self, whatever, inner, data_preprocessor=None):
        super().__init__(data_preprocessor)
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name='config.py'):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    write.folder = tmp_path
    return write


@pytest.mark.parametrize('path', CONFIGS)
def test_every_config_of_the_repository(path):
    cfg = load_config(str(ROOT / path))
    assert cfg.default_scope == 'cal_mm'


def test_a_varied_config_gives_no_false_alarm(write):
    write(OWN, 'own_parts.py')
    cfg = load_config(write(VARIED))
    assert cfg.train_dataloader.dataset.dataset.datasets[1].oversample_thr == 0.1


@pytest.mark.parametrize('module', ['torch.optim', 'timm.optim'])
def test_optimisers_of_other_libraries(write, module):
    name = {'torch.optim': 'RAdam', 'timm.optim': 'Lamb'}[module]
    text = f"optim_wrapper = dict(optimizer=dict(type='{module}.{name}', lr=0.1, eps=1e-6))"
    assert load_config(write(text)).optim_wrapper.optimizer.eps == 1e-6
    with pytest.raises(ConfigError, match=f"'{name}' takes no argument 'epz'. Did you mean 'eps'"):
        load_config(write(text.replace('eps', 'epz')))


def test_every_torch_optimiser_and_scheduler_is_known():
    names = [n for n in dir(torch.optim) if n[:1].isupper() and n not in ('Optimizer', 'Muon')]
    for name in names:
        check_config(dict(optim_wrapper=dict(optimizer=dict(type=name, lr=0.1))))
    for name, target in PARAM_SCHEDULERS.module_dict.items():
        assert {'optimizer', 'by_epoch', 'end'} <= set(takes(target)), name


def test_classes_as_types(write):
    """A pure Python config: mmengine reads it lazily."""
    text = """
    from mmengine.dataset import DefaultSampler
    from mmengine.optim import OptimWrapper
    from torch.optim import SGD
    train_dataloader = dict(batch_size=2, sampler=dict(type=DefaultSampler, shuffle=True))
    optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1, momentum=0.9))
    """
    assert load_config(write(text)).optim_wrapper.optimizer.type is torch.optim.SGD
    with pytest.raises(ConfigError, match="'SGD' takes no argument 'momentun'"):
        load_config(write(text.replace('momentum', 'momentun')))
    check_config(dict(optim_wrapper=dict(optimizer=dict(type=torch.optim.SGD, lr=0.1))))


def test_delete_and_bases(write):
    write(MODEL, 'base.py')
    child = write("""
        _base_ = ['base.py']
        optim_wrapper = dict(
            _delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
        model = dict(fusion=dict(_delete_=True, type='SumFusion'), contribution=None)
        randomness = dict(_delete_=True, seed=3)
        """)
    cfg = load_config(child)
    assert cfg.optim_wrapper == dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
    assert cfg.model.fusion == dict(type='SumFusion')
    assert cfg.randomness == dict(seed=3)  # mmengine leaves _delete_ where there was no base
    gate = dict(type='ContributionGate', _delete_=True)
    assert load_config(child, {'model.gate': gate}).model.gate == dict(type='ContributionGate')


def test_a_name_gives_way_to_a_component(write):
    """As docs/methods/cal.md says it of ``source``."""
    page = (ROOT / 'docs/methods/cal.md').read_text(encoding='utf-8')
    row = next(line for line in page.splitlines() if '_delete_' in line)
    inherited = re.search(r'`(dict\(_delete_=True, [^`]*\))`', row)[1]
    base = ROOT / 'configs/cal/synthetic_mlp_concat_cal.py'
    child = write(f"""
        _base_ = [{str(base)!r}]
        model = dict(contribution=dict(source={inherited}))
        """)
    expected = dict(type='PilotSource', folds=3)
    assert load_config(child).model.contribution.source == expected
    key, value = parse_option(re.search(r'--cfg-options "([^"]*)"', row)[1])
    cfg = load_config(str(base), {key: value})
    assert cfg.model.contribution.source == expected
    assert cfg.model.contribution.tau == 0.15
    assert value == expected
    with pytest.raises(ConfigError, match="takes no argument 'fold'"):
        load_config(str(base), {key: dict(type='PilotSource', fold=3)})
    with pytest.raises(ConfigError, match='cannot be set to'):
        load_config(str(base), {key: dict(folds=3)})
    # a dictionary is merged into one
    merged = load_config(child, {key: dict(type='PilotSource', seed=1)}).model.contribution.source
    assert merged == {**expected, 'seed': 1}


def test_one_seed_for_all_that_a_run_draws():
    cfg = load_config(str(ROOT / 'configs/cal/digits_av_small_concat_cal.py'))
    set_seed(cfg, 3)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert (cfg.randomness.seed, cfg.model.seed, train.seed, val.get('seed')) == (3, 3, 3, None)
    inner = train.copy()
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner, inner.copy()])
    set_seed(cfg, 4)
    assert [d.seed for d in cfg.train_dataloader.dataset.datasets] == [4, 4]
    # cached noisy versions are the same for all runs; what takes no seed gets none
    cfg.default_hooks.feature_cache.draws = 5
    cfg.train_dataloader.dataset = dict(type='torch.utils.data.TensorDataset')
    cfg.model = dict(type='torch.nn.Linear')
    set_seed(cfg, 5)
    assert 'seed' not in cfg.model
    assert 'seed' not in cfg.train_dataloader.dataset
    assert cfg.randomness.seed == 5


MISTAKES = [
    (
        'train_dataloader =',
        'train_dataloder =',
        "unknown key 'train_dataloder'.*'train_dataloader'",
    ),
    ('default_hooks', 'defualt_hooks', "'defualt_hooks'. Did you mean 'default_hooks'"),
    (
        "'MultiModalClassifier'",
        "'MultiModalClasifier'",
        r'model: .* not a registered model.*Did you',
    ),
    (
        "'MLPEncoder'",
        "'MLPEncodr'",
        r"model\.encoders\.a: 'MLPEncodr' is not a registered encoder.*'MLPEncoder'",
    ),
    ("'MLPEncoder'", "'ConcatFusion'", r"'ConcatFusion' is not a registered encoder"),
    (
        'hidden_channels',
        'hiden_channels',
        r"encoders\.a: .* no argument 'hiden_channels'. Did you mean 'hidden_channels'",
    ),
    ("'FeatureFrontEnd'", "'FeatureFront'", r'frontends\.a: .* not a registered front end'),
    (
        "'AIBLoss'",
        "'AIBLos'",
        r"model\.losses\[1\]: 'AIBLos' is not a registered loss component.*'AIBLoss'",
    ),
    ('beta=', 'betta=', r"losses\[1\]: 'AIBLoss' takes no argument 'betta'. Did you mean 'beta'"),
    ('lam=', 'lamda=', r"model\.contribution: .*takes no argument 'lamda'. Did you mean 'lam'"),
    ("source='train'", "source='trian'", r"model\.contribution\.source: 'trian' is not.*'train'"),
    ('max_rank', 'maxrank', r"contribution\.typicality: .*'maxrank'. Did you mean 'max_rank'"),
    (
        "'LoadFeatures'",
        "'LoadFeature'",
        r'dataset\.pipeline\[0\]: .*registered transform.*LoadFeatures',
    ),
    ("modality='a'", "modalty='a'", r"pipeline\[0\]: 'LoadFeatures' takes no argument 'modalty'"),
    (
        'batch_size',
        'batchsize',
        r"train_dataloader: .*no argument 'batchsize'. Did you mean 'batch_size'",
    ),
    (
        "'DefaultSampler'",
        "'DefaltSampler'",
        r'sampler: .*not a registered data sampler.*DefaultSampler',
    ),
    ('shuffle', 'shufle', "'DefaultSampler' takes no argument 'shufle'"),
    ('split=', 'splitt=', "'MultiModalDataset' takes no argument 'splitt'"),
    ('max_epochs', 'max_epoch', "'EpochBasedTrainLoop' takes no argument 'max_epoch'"),
    ("'SGD'", "'SDG'", r"optim_wrapper\.optimizer: 'SDG' is not a registered optimizer.*'SGD'"),
    ('lr=', 'learning_rate=', r"'SGD' takes no argument 'learning_rate'"),
    ('gamma=', 'gama=', "'AsymmetricAcceleration' takes no argument 'gama'. Did you mean 'gamma'"),
    ("'CosineAnnealingLR'", "'CosineAnealingLR'", r'param_scheduler\[0\]: .*CosineAnnealingLR'),
    ('T_max', 'Tmax', "'CosineAnnealingLR' takes no argument 'Tmax'. Did you mean 'T_max'"),
    ("'CheckpointHook'", "'ChekpointHook'", r"default_hooks\.checkpoint: .*'CheckpointHook'"),
    ('interval=1', 'intervall=1', "'CheckpointHook' takes no argument 'intervall'"),
    ('checkpoint=dict', 'checkpont=dict', "default_hooks: unknown key 'checkpont'.*'checkpoint'"),
    ("'Visualizer'", "'Visualiser'", r"visualizer: 'Visualiser'.*Did you mean 'Visualizer'"),
    ("'LocalVisBackend'", "'LocalVisBackends'", r'vis_backends\[0\]: .*LocalVisBackend'),
    (
        'num_classes=3',
        "num_classes='three'",
        r"model\.num_classes: .*expects int here, got 'three' \(str\)",
    ),
    ('lr=0.1', "lr='0.1x'", r"optimizer\.lr: 'SGD' expects a number here, got '0.1x'"),
    (
        'max_epochs=3',
        "max_epochs='3x'",
        r"train_cfg\.max_epochs: .*expects a number here, got '3x'",
    ),
    ('batch_size=4', "batch_size='4x'", r"train_dataloader\.batch_size: .*a number here, got '4x'"),
    ("type='Visualizer'", 'type=3', 'visualizer: type must be the name of a component or a class'),
]


@pytest.mark.parametrize(('right', 'wrong', 'message'), MISTAKES, ids=[m[1] for m in MISTAKES])
def test_mistakes_are_refused(write, right, wrong, message):
    assert right in MODEL
    path = write(MODEL.replace(right, wrong, 1))
    with pytest.raises(ConfigError, match=message) as e:
        load_config(path)
    assert path in str(e.value)


@pytest.mark.parametrize('text', [MODEL, 'randomness = dict(sed=1)', 'env_cfg = dict(cudnn=True)'])
def test_plain_dictionaries(write, text):
    if text is MODEL:
        load_config(write(text))
    else:
        with pytest.raises(ConfigError, match='takes no argument'):
            load_config(write(text))


@pytest.mark.parametrize(
    ('clip', 'message'),
    [
        ("dict(type='value', clip_value=1)", None),
        ('dict(max_norm=1, norm_type=2)', None),
        ('dict(maxnorm=1)', "takes no argument 'maxnorm'. Did you mean 'max_norm'"),
        ("dict(type='value', max_norm=1)", "takes no argument 'max_norm'"),
    ],
)
def test_clip_grad(write, clip, message):
    path = write(f"optim_wrapper = dict(optimizer=dict(type='SGD', lr=1), clip_grad={clip})")
    if message is None:
        load_config(path)
    else:
        with pytest.raises(ConfigError, match=message):
            load_config(path)


OPTIONS = [
    ('train_dataloader.dataset.indices', 300),
    ('model.gate', 'contribution'),
    ('model.losses.1.beta', 0.5),
    ('model.losses.1.rule', 'uniform'),
    ('model.contribution.tau', 0.2),
    ('model.contribution', None),
    ('model.encoders.a.out_channels', 7),
    ('optim_wrapper.clip_grad.max_norm', 1.0),
    ('optim_wrapper.accumulative_counts', 4),
    ('optim_wrapper.optimizer.nesterov', True),
    ('param_scheduler.0.eta_min', 0.1),
    ('default_hooks.checkpoint.max_keep_ckpts', 1),
    ('randomness.seed', 3),
    ('env_cfg.mp_cfg.mp_start_method', 'spawn'),
    ('auto_scale_lr.enable', True),
    ('resume', True),
    ('work_dir', 'elsewhere'),
    ('custom_hooks', [dict(type='EmptyCacheHook')]),
]


@pytest.mark.parametrize(('key', 'value'), OPTIONS, ids=[o[0] for o in OPTIONS])
def test_options_that_are_right(write, key, value):
    node = load_config(write(MODEL), {key: value})
    for part in key.split('.'):
        node = node[int(part)] if part.isdigit() else node[part]
    assert node == value


WRONG_OPTIONS = [
    ('modle.gate', 'none', "there is no 'modle' at the top level. Did you mean 'model'"),
    ('model.gat', 'none', "there is no 'gat' at model. Did you mean 'gate'"),
    ('model.encoders.b.out_channels', 3, "no 'b' at model.encoders"),
    ('model.encoders.a.out', 3, "no 'out' at model.encoders.a"),
    ('model.losses.2.beta', 1, r"model\.losses is a list of 2; '2' is not an index.*0 to 1"),
    ('model.losses.x', 1, "'x' is not an index"),
    ('model.losses.1.betta', 1, r"no 'betta' at model\.losses\[1\]. Did you mean 'beta'"),
    ('model.num_classes.x', 1, r"model\.num_classes is 3, there is no 'x' inside it"),
    ('model.contribution.lamda', 1, "no 'lamda' at model.contribution. Did you mean 'lam'"),
    (
        'train_dataloader.datset.indices',
        3,
        "no 'datset' at train_dataloader. Did you mean 'dataset'",
    ),
    ('train_dataloader.dataset.indexes', 3, "Did you mean 'indices'"),
    ('optim_wrapper.clip_grad.maxnorm', 1, "takes no argument 'maxnorm'"),
    ('randomness.sed', 1, "takes no argument 'sed'"),
    ('model.fusion.type', 'Concat', "'Concat' is not a registered fusion"),
    ('model.num_classes', 'ten', 'expects int'),
    ('optim_wrapper.optimizer.lr', 'big', 'expects a number'),
    ('default_hooks.checkpont.interval', 1, "Did you mean 'checkpoint'"),
    ('train_cfg.max_epoch', 1, "Did you mean 'max_epochs'"),
]


@pytest.mark.parametrize(
    ('key', 'value', 'message'), WRONG_OPTIONS, ids=[o[0] for o in WRONG_OPTIONS]
)
def test_options_that_are_wrong(write, key, value, message):
    with pytest.raises(ConfigError, match=message) as e:
        load_config(write(MODEL), {key: value})
    assert f'--cfg-options {key}' in str(e.value)


def test_a_tuple_is_set_as_a_whole(write):
    path = write("optim_wrapper = dict(optimizer=dict(type='Adam', lr=1, betas=(0.9, 0.99)))")
    with pytest.raises(ConfigError, match=r'set as a whole: optim_wrapper\.optimizer\.betas='):
        load_config(path, {'optim_wrapper.optimizer.betas.0': 0.5})
    assert load_config(path, {'optim_wrapper.optimizer.betas': (0.5, 0.9)})


def test_an_option_for_a_variable_warns(write, capsys):
    path = write("rate = 0.1\noptim_wrapper = dict(optimizer=dict(type='SGD', lr=rate))")
    cfg = load_config(path, {'rate': 0.5})
    assert cfg.optim_wrapper.optimizer.lr == 0.1
    assert "'rate' is a variable of the config file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('3', 3),
        ('1e-3', 1e-3),
        ('true', True),
        ('None', None),
        ('a b', 'a b'),
        ('[1,2]', [1, 2]),
        ('1,2', [1, 2]),
        ('(1,2)', (1, 2)),
        ('[a,b]', ['a', 'b']),
        ("['a b','c']", ['a b', 'c']),
        ("{'type': 'SumFusion'}", {'type': 'SumFusion'}),
        ("[{'x': 1}]", [{'x': 1}]),
        ('a=b', 'a=b'),
        ("'3'", '3'),
    ],
)
def test_values_of_options(text, value):
    assert parse_option(f'k.l={text}') == ('k.l', value)


@pytest.mark.parametrize('text', ['model.gate', '=3', '', 'a=[1,(2', "a={'b'"])
def test_options_that_cannot_be_read(text):
    with pytest.raises(ValueError, match=r'expected KEY=VALUE|do not match|no Python literal'):
        parse_option(text)


def test_files_that_cannot_be_read(write):
    with pytest.raises(ConfigError, match='no config file at'):
        load_config(str(write.folder / 'none.py'))
    with pytest.raises(ConfigError, match='cannot be read as a config'):
        load_config(write('model = dict('))
    with pytest.raises(ConfigError, match='cannot be read as a config'):
        load_config(write("_base_ = 'missing.py'"))
    with pytest.raises(ConfigError, match="cannot import 'no_such_module'"):
        load_config(write("custom_imports = dict(imports=['no_such_module'])"))
    with pytest.raises(ConfigError, match='custom_imports must be'):
        load_config(write("custom_imports = ['x']"))
    write('x = 1\nraise RuntimeError("boom")', 'broken_parts.py')
    with pytest.raises(
        ConfigError, match=r'fails in line 2 of .*broken_parts\.py: RuntimeError: boom'
    ):
        load_config(write("custom_imports = dict(imports='broken_parts')"))


def test_names_read(write):
    write('shared = 1', 'base.py')
    child = write("_base_ = ['base.py']\nmodel = dict(a=_base_.shared, b=[x for x in mine])\n")
    assert {'shared', 'mine'} <= names_read(child)
    assert 'model' not in names_read(child)


LINES = dict(
    method_model='model = _base_.method_model',
    method_optim_wrapper='optim_wrapper = _base_.method_optim_wrapper',
    method_hooks='custom_hooks = _base_.method_hooks',
    method_train_dataloader='train_dataloader = _base_.method_train_dataloader',
)


def of_method(method, without=()):
    names = ('models/synthetic_mlp', 'datasets/synthetic', 'schedules/sgd_3e', f'methods/{method}')
    bases = [str(ROOT / f'configs/_base_/{name}.py') for name in (*names, 'default_runtime')]
    offered = Config.fromfile(bases[3])
    lines = [line for part, line in LINES.items() if part in offered and part not in without]
    return '\n'.join([f'_base_ = {bases!r}', *lines])


@pytest.mark.parametrize(
    ('method', 'part'),
    [
        ('pmr', 'method_hooks'),
        ('sample_valuation', 'method_hooks'),
        ('sample_valuation', 'method_train_dataloader'),
        ('pmr', 'method_model'),
        ('ogm', 'method_optim_wrapper'),
    ],
)
def test_a_method_without_one_of_its_parts_is_refused(write, method, part):
    message = rf'{part} of .*{method}\.py is not used.* Add: {LINES[part]}'
    with pytest.raises(ConfigError, match=message):
        load_config(write(of_method(method, without=[part])))
    child = write("_base_ = ['config.py']", 'child.py')
    with pytest.raises(ConfigError, match=message):
        load_config(child)
    write(of_method(method))
    assert load_config(child).train_cfg.max_epochs == 3


def test_hooks_of_ones_own_do_not_replace_the_methods(write):
    write(of_method('pmr'))
    own = "[dict(type='EMAHook', momentum=0.01)]"
    child = write(f"_base_ = ['config.py']\ncustom_hooks = {own}", 'child.py')
    with pytest.raises(
        ConfigError, match=r'custom_hooks lacks PrototypeHook .*_base_\.method_hooks'
    ):
        load_config(child)
    with pytest.raises(ConfigError, match='lacks PrototypeHook'):
        load_config(str(write.folder / 'config.py'), {'custom_hooks': []})
    beside = f"_base_ = ['config.py']\ncustom_hooks = [*_base_.method_hooks, *{own}]"
    assert len(load_config(write(beside, 'child.py')).custom_hooks) == 2
    given_up = f"_base_ = ['config.py']\ncustom_hooks = {own}\nmethod_hooks = []"
    assert len(load_config(write(given_up, 'child.py')).custom_hooks) == 1


def test_what_a_run_leaves_of_a_method_is_whole(write):
    cfg = load_config(write(of_method('sample_valuation')), {'custom_hooks.0.begin': 2})
    cfg.dump(str(write.folder / 'left.py'))
    write("_base_ = ['left.py']", 'child.py')
    for name in ('left.py', 'child.py'):
        again = load_config(str(write.folder / name))
        assert again.custom_hooks[0].begin == 2
        assert again.train_dataloader.sampler.type == 'ValuedSampler'
    # an empty part has nothing to say
    load_config(write(of_method('pmr', without=['method_optim_wrapper'])))


def test_a_variable_near_a_key_is_fine_if_it_is_read(write):
    """``models`` is read by the file; the same name read by nothing is taken for a slip."""
    load_config(write('models = 3\nnumber = models + 1'))
    with pytest.raises(ConfigError, match=r"'models'\. Did you mean 'model'"):
        load_config(write('models = 3'))


def test_a_config_that_is_no_file():
    check_config(Config(dict(randomness=dict(seed=1))))
    with pytest.raises(ConfigError, match='config: randomness'):
        check_config(dict(randomness=dict(sed=1)))


def test_collate_functions_are_known_in_a_fresh_process():
    code = (
        'from cal_mm.config import load_config;'
        'load_config("configs/concat/crema_d_resnet18_concat_concat.py")'
    )
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
