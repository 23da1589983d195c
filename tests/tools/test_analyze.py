"""tools/analyze.py on a checkpoint."""

import json
import sys

from commands import ROOT, run, train

from data_prep.synthetic import make_synthetic


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
