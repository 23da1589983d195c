"""Attacks through the test loop and tools/test.py, on a model that has learned something."""

import pytest
import torch
from cli_runner import ROOT, call, own_name
from mmengine.dataset import pseudo_collate
from test_adversarial import trained

from cal_mm.config import load_config
from cal_mm.corruptions import PROTOCOLS, get_protocol
from cal_mm.corruptions.adversarial_attack import act
from cal_mm.corruptions.plan import plan_conditions
from cal_mm.evaluation import load_results
from cal_mm.registry import DATASETS, MODELS
from data_prep.synthetic import make_synthetic

CONFIG = ROOT / 'configs/concat/synthetic_mlp_concat_concat.py'


@pytest.fixture(scope='module', params=[False, True], ids=['learned', 'frozen'])
def case(request, tmp_path_factory):
    """(config options, checkpoint): with encoders that learn, or that were then frozen."""
    top = tmp_path_factory.mktemp('attack')
    make_synthetic(top / 'data', num_train=200, num_val=16, num_test=60, signal=3.0)
    options = {f'{s}_dataloader.dataset.data_root': str(top / 'data') for s in ('train', 'test')}
    cfg = load_config(str(CONFIG), options)
    data = DATASETS.build(cfg.train_dataloader.dataset)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.data_preprocessor.fit(data)
    items = [data[i] for i in range(200)]
    trained(model, lambda step: pseudo_collate(items[step * 20 % 200 :][:20]), 30)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, top / 'model.pth')
    given = [f'{k}={v}' for k, v in options.items()]
    if request.param:
        given += [f'model.encoders.{m}.frozen=True' for m in 'abc']
    return given, top / 'model.pth', model, cfg


def run(case, tmp_path, *argv):
    options, checkpoint, *_ = case
    out = tmp_path / 'results.json'
    found = call('test', CONFIG, checkpoint, '--out', out, '--work-dir', tmp_path, *argv,
                 '--cfg-options', *options, own_name())  # fmt: skip
    return (*found, out)


def test_attacks_on_the_command_line(case, tmp_path):
    """The rows are those of the attack called by hand, with frozen encoders and their memo, too."""
    attacks = ['fgsm:3@a', 'fgsm:eps=1@a+b+c', 'pgd:eps=1,steps=3@a+b+c', 'pgd_l2:4@b']
    code, _, err, out = run(case, tmp_path, '--attack', *attacks)
    assert (code, err) == (0, '')
    rows = load_results(out)['rows']
    assert [r['condition'] for r in rows] == ['clean', *attacks]
    accuracy = [r['metrics']['accuracy/top1'] for r in rows]
    assert accuracy[0] > 90
    assert accuracy[2] < accuracy[0] - 5
    assert accuracy[3] <= accuracy[2] + 2
    pgd = rows[3]['corruptions'][0]
    assert (pgd['norm'], pgd['steps'], pgd['random_start']) == ('linf', 3, True)
    assert all(r['timing']['noise_seconds'] > 0 for r in rows[1:])

    *_, model, cfg = case
    data = DATASETS.build(cfg.test_dataloader.dataset)
    batch = pseudo_collate([data[i] for i in range(len(data))])
    plan = plan_conditions(data.metainfo['modalities'], attacks, item=data[0])
    labels = torch.stack([s.gt_label for s in batch['data_samples']])
    for row, condition in zip(rows[1:], plan, strict=True):
        attacked = act(condition.corruptions, batch, model)
        with torch.no_grad():
            logits = model(**model.data_preprocessor(attacked), mode='tensor')
        right = float((logits.argmax(1) == labels).double().mean()) * 100
        assert row['metrics']['accuracy/top1'] == pytest.approx(right, abs=1.7)
        own = logits.double().softmax(1).gather(1, labels[:, None])
        nll = -float(own.clamp_min(1e-12).log().mean())  # bounded as the metric bounds it
        assert row['metrics']['nll'] == pytest.approx(nll, rel=2e-3)


def test_the_protocol_on_the_command_line(case, tmp_path):
    code, _, err, out = run(case, tmp_path, '--protocol', 'adversarial')
    assert (code, err) == (0, '')
    rows = load_results(out)['rows'][1:]
    assert len(rows) == 3 * 3 * 4
    assert {(r['protocol'], r['protocol_version']) for r in rows} == {('adversarial', 2)}
    assert {r['attack'] for r in rows} == {'fgsm', 'pgd', 'pgd_l2'}
    nll = {r['condition']: r['metrics']['nll'] for r in rows}
    for attack in ('fgsm', 'pgd', 'pgd_l2'):
        for where in ('a', 'b', 'c', 'a+b+c'):
            weak, middle, strong = (nll[f'{attack}:{s}@{where}'] for s in (1, 3, 5))
            assert weak < middle < strong
        assert nll[f'{attack}:5@a+b+c'] > max(nll[f'{attack}:5@{m}'] for m in 'abc')
    assert nll['pgd:5@a+b+c'] >= nll['fgsm:5@a+b+c'] * 0.999


@pytest.mark.parametrize(
    ('attack', 'message'),
    [
        ('fgsm:3@q', "no modality 'q'"),
        ('pgd:7@a', 'severity must be from 1 to 5'),
        ('pgd:3,steps=0@a', 'steps must be an integer >= 1'),
        ('fgsm:snr_db=3@a', 'FeatureFGSM'),
        ('ImageFGSM:3@a', "is of kind 'features'"),
    ],
)
def test_errors_come_before_the_model(case, tmp_path, attack, message):
    code, _, err, _ = run(case, tmp_path, '--attack', attack)
    assert code == 2
    assert message in err


def test_the_protocol_has_what_fits_every_kind():
    kinds = {'a': 'image', 'b': 'waveform', 'c': 'text', 'd': 'depth', 'e': 'features'}
    conditions = get_protocol('adversarial').conditions(kinds, [0])
    assert len(conditions) == 3 * 3 * 6
    assert all(not c.sample_wise for k in conditions for c in k.corruptions)
    (together,) = [c for c in conditions if c.label == 'pgd_l2:3@a+b+c+d+e']
    assert [type(c).__name__ for c in together.corruptions] == [
        'ImagePGDL2', 'WaveformPGDL2', 'TextPGDL2', 'DepthPGDL2', 'FeaturePGDL2',
    ]  # fmt: skip
    assert len(get_protocol('adversarial').conditions({'a': 'text'}, [0])) == 9
    # noise protocols are without attacks: they need no gradient
    plain = PROTOCOLS['corruption-1'].conditions(kinds, [0])
    assert all(c.sample_wise for k in plain for c in k.corruptions)
