"""tools/analyze.py on a checkpoint."""

import json
import sys

import torch
from cli_runner import load_tool
from commands import ROOT, run, train

from cal_mm.evaluation.analysis import shapley_report
from cal_mm.models.contribution.functional import coalition_plan
from data_prep.synthetic import make_synthetic


def test_many_modalities_state_the_error_of_drawn_orders():
    tool, g = load_tool('analyze'), torch.Generator().manual_seed(0)
    prior = torch.tensor([0.5, 0.3, 0.2]).log()

    def found(count):
        plan, labels = coalition_plan(count), torch.randint(3, (20,), generator=g)
        logits = torch.randn(20, plan.num_coalitions, 3, generator=g)
        # by hand: phi of each pair of orders, in log-likelihood
        coalitions = logits.transpose(0, 1).contiguous()
        report = shapley_report(coalitions, labels, prior, tuple('abcdefg'[:count]))
        log_p = coalitions.double().log_softmax(-1)
        log_p[0] = prior
        values = torch.stack([p[range(20), labels] for p in log_p]).mean(1)
        return plan, values, report, tool.table({'shapley': report})

    plan, values, report, text = found(7)
    each = torch.stack([pair @ values for pair in plan.pairs])
    errors = each.std(0) / len(each) ** 0.5
    assert errors.min() > 0
    for m, error in zip('abcdefg', errors.tolist(), strict=True):
        assert abs(report['log_likelihood'][m]['sampling_error'] - error) < 1e-9
        assert 0 < report['accuracy'][m]['sampling_error'] < 10
    assert f'points and {errors.max():.3f} nats beside that over the samples' in text
    _, _, report, text = found(3)
    assert set(report['accuracy']['a']) == {'value', 'error'}
    assert 'beside that' not in text


def test_every_part(tmp_path):
    data = tmp_path / 'synthetic'
    make_synthetic(data, num_train=120, num_val=40, num_test=80, signal=6.0)
    train(data, tmp_path / 'run', 'concat_uni')
    config = 'configs/concat_uni/synthetic_mlp_concat_concat_uni.py'
    roots = [f'{s}_dataloader.dataset.data_root={data}' for s in ('train', 'val', 'test')]
    out = tmp_path / 'analysis.json'
    command = [sys.executable, str(ROOT / 'tools/analyze.py'), config]
    checkpoint = str(tmp_path / 'run/epoch_3.pth')
    text = run([*command, checkpoint, '--out', str(out), '--cfg-options', *roots])
    found = json.loads(out.read_text())
    # a tells the class, c is noise
    probes = {m: v['accuracy'] for m, v in found['probes'].items()}
    assert probes['a'] > 80 > 45 > probes['c']
    worth = {m: v['value'] for m, v in found['shapley']['log_likelihood'].items()}
    assert worth['a'] > worth['b'] > worth['c']
    assert found['fisher']['a']['trace'] > 0
    assert set(found['gradients']) == {'a', 'b', 'c'}
    assert 'error signals of a, b' in text
    assert 'probe %' in text
    wrapped = tmp_path / 'wrapped.py'
    wrapped.write_text(
        f'_base_ = [{str(ROOT / config)!r}]\n'
        "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, "
        'dataset=_base_.train_dataloader.dataset))\n'
    )
    roots[0] = f'train_dataloader.dataset.dataset.data_root={data}'
    command[2] = str(wrapped)
    text = run([*command, checkpoint, '--parts', 'probes', '--cfg-options', *roots])
    assert 'probe %' in text
    text = run([*command, str(tmp_path / 'none.pth')], expect=1)
    assert 'there is no checkpoint' in text
