"""Frozen encoders in a robustness test: what is encoded, how often, and with which result."""

import time
from types import SimpleNamespace

import pytest
import torch
from builders import model_config
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.runner import Runner
from torch import nn

from cal_mm.engine.adaptation import Tent
from cal_mm.engine.feature_memo import FeatureMemo, value_key
from cal_mm.registry import DATASETS, MODELS
from cal_mm.structures import MultiModalDataSample

DIMS = {'a': 6, 'b': 5, 'c': 4}
FROZEN = {
    m: dict(
        type='MLPEncoder',
        in_channels=d,
        hidden_channels=[12],
        out_channels=10,
        frozen=m != 'c',
    )
    for m, d in DIMS.items()
}


def make_model(**overrides):
    torch.manual_seed(0)
    model = MODELS.build(model_config(DIMS, encoders=FROZEN, **overrides))
    for m, front_end in model.data_preprocessor.frontends.items():
        front_end.fit(dict(mean=[0.0] * DIMS[m], std=[1.0] * DIMS[m]))
    return model.eval()


def make_batch(ids, shift=0.0):
    items = []
    for i in ids:
        g = torch.Generator().manual_seed(i)
        inputs = {m: torch.randn(d, generator=g) + shift for m, d in DIMS.items()}
        items.append({'inputs': inputs, 'data_samples': MultiModalDataSample.of(f's{i}', 0)})
    return pseudo_collate(items)


def test_values_are_told_apart_by_their_bits():
    x = torch.arange(6.0)
    assert value_key(x) == value_key(x.clone()) == value_key(torch.arange(12.0)[:6])
    others = [x.reshape(2, 3), x.double(), x.flip(0), -x, x.to(torch.uint8), torch.empty(0)]
    assert len({value_key(o) for o in [x, *others]}) == 7
    assert value_key(torch.tensor([0.0])) != value_key(torch.tensor([-0.0]))
    assert value_key('some text') == 'some text'
    assert value_key([1, 2]) is None


def test_only_new_values_of_frozen_encoders_are_encoded():
    model = make_model()
    memo = FeatureMemo(model)
    batch = make_batch([0, 1, 2, 0])
    served = memo.serve(batch)
    assert set(served['features']) == {'a', 'b'}
    assert served['inputs'] is batch['inputs']
    assert 'features' not in batch
    assert memo.encoded == {'a': 3, 'b': 3}
    for m in ('a', 'b'):
        x, mask = model.data_preprocessor.frontends[m](batch['inputs'][m])
        torch.testing.assert_close(
            torch.stack(served['features'][m]), model.encoders[m](x, mask), atol=1e-6, rtol=1e-6
        )
    changed = make_batch([2, 7, 1])
    changed['inputs']['a'][0] = changed['inputs']['a'][0] + 1e-6
    changed['inputs']['b'][2] = None
    again = memo.serve(changed)['features']
    assert memo.encoded == {'a': 5, 'b': 4}
    assert again['b'][2] is None
    assert torch.equal(again['b'][0], served['features']['b'][2])
    assert not torch.equal(again['a'][0], served['features']['a'][2])


def test_what_others_say_of_a_modality_goes_first():
    memo = FeatureMemo(make_model())
    own = [torch.ones(10), None]
    served = memo.serve({**make_batch([0, 1]), 'features': {'b': own}}, attacked=['a'])
    assert served['features'] == {'b': own}
    assert memo.encoded == {'a': 0, 'b': 0}
    for other in (nn.Linear(1, 1), SimpleNamespace(encoders={'a': SimpleNamespace(frozen=True)})):
        batch = make_batch([0])
        assert FeatureMemo(other).serve(batch) is batch


def test_memory_is_bounded_and_the_longest_unused_goes():
    memo = FeatureMemo(make_model(), max_bytes=4 * 10 * 4)  # two samples of two modalities
    memo.serve(make_batch([0]))
    memo.serve(make_batch([1]))
    memo.serve(make_batch([0]))
    assert memo.encoded['a'] == 2
    memo.serve(make_batch([2]))  # 1 goes
    memo.serve(make_batch([0]))
    assert memo.encoded['a'] == 3
    memo.serve(make_batch([1]))
    assert memo.encoded['a'] == 4
    small = FeatureMemo(make_model(), max_bytes=0)
    features = small.serve(make_batch([0, 0, 1]))['features']['a']
    assert torch.equal(features[0], features[1])
    assert all(f is not None for f in features)


@pytest.mark.parametrize('threads', [1, 2, 3])
def test_any_number_of_threads_gives_the_same(threads):
    expected = FeatureMemo(make_model()).serve(make_batch(range(150)))['features']['a']
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = FeatureMemo(make_model()).serve(make_batch(range(150)))['features']['a']
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(got, expected, atol=0, rtol=1e-6)
    assert not any(f.requires_grad for f in got)


class Letters(nn.Module):
    """Counts the letters of padded texts; a stand-in for a text encoder and its front end."""

    frozen = True
    device = torch.device('cpu')

    def __init__(self):
        super().__init__()
        self.batches = []

    def front_end_output(self, name, values, samples=None):
        self.batches.append(values)
        width = max(map(len, values))
        ids = torch.tensor([[*map(ord, v), *[0] * (width - len(v))] for v in values])
        return ids, ids > 0

    def forward(self, x, mask):
        return (x * mask).sum(dim=1, keepdim=True).float()


def test_texts_of_one_length_go_together_and_come_back_in_order():
    part = Letters()
    memo = FeatureMemo(SimpleNamespace(encoders={'t': part}, data_preprocessor=part))
    texts = ['x' * (i * 37 % 50) + 'ab' for i in range(50)]
    batch = {'inputs': {'t': [*texts, texts[3]]}, 'data_samples': [None] * 51}
    features = memo.serve(batch)['features']['t']
    assert [float(f) for f in features] == [float(sum(map(ord, t))) for t in [*texts, texts[3]]]
    lengths = [len(t) for values in part.batches for t in values]
    assert lengths == sorted(lengths)
    assert 1 < len(part.batches) < 10
    assert memo.encoded == {'t': 50}


def test_an_error_names_the_sample():
    batch = make_batch([0, 1, 2])
    batch['inputs']['a'][1] = torch.full((6,), float('nan'))
    with pytest.raises(ValueError, match=r"modality 'a'.*'s1'"):
        FeatureMemo(make_model()).serve(batch)


@DATASETS.register_module()
class MemoDataset(BaseDataset):
    """Twenty samples; notes how often each is read."""

    reads = 0

    def __init__(self):
        kinds = {m: {'kind': 'features'} for m in DIMS}
        super().__init__(metainfo=dict(modalities=kinds, classes=('x', 'y', 'z')), lazy_init=False)

    def load_data_list(self):
        return [dict(number=i) for i in range(20)]

    def __getitem__(self, i):
        type(self).reads += 1
        batch = make_batch([i])
        inputs = {m: v[0] for m, v in batch['inputs'].items()}
        return {'inputs': inputs, 'data_samples': MultiModalDataSample.of(f's{i}', i % 3)}


def run(tmp_path, shift=0.0, **test_cfg):
    cfg = Config(
        dict(
            default_scope='cal_mm',
            model=model_config(DIMS, encoders=FROZEN),
            work_dir=str(tmp_path),
            experiment_name=f'memo_{time.monotonic_ns()}',
            randomness=dict(seed=0),
            test_dataloader=dict(
                batch_size=8,
                num_workers=0,
                persistent_workers=False,
                dataset=dict(type='MemoDataset'),
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='collate_batch'),
            ),
            test_evaluator=dict(type='MultiModalMetric', topk=(1,)),
            test_cfg=dict(type='RobustnessTestLoop', **test_cfg),
        )
    )
    runner = Runner.from_cfg(cfg)
    for m, front_end in runner.model.data_preprocessor.frontends.items():
        front_end.fit(dict(mean=[shift] * DIMS[m], std=[1.0] * DIMS[m]))
    runner.test()
    return runner.test_loop


def test_a_grid_gives_what_it_gives_without_the_memo(tmp_path, monkeypatch):
    made = []
    init = FeatureMemo.__init__
    monkeypatch.setattr(
        FeatureMemo, '__init__', lambda self, *a, **k: (made.append(self), init(self, *a, **k))[1]
    )
    asked = dict(protocol='clipped', seeds=2, attacks=['swap@a'], drop=['b'])
    monkeypatch.setattr(MemoDataset, 'reads', 0)
    loop = run(tmp_path / 'with', **asked)
    # decoded once (and the first once more, to check the conditions), whatever the conditions
    assert MemoDataset.reads == 21
    # clean, two strengths, two seeds; noise on all is noise on each; swapped values are known
    assert made[0].encoded == {'a': 20 * 5, 'b': 20 * 5, 'c': 20 * 5}
    monkeypatch.setattr(FeatureMemo, 'serve', lambda self, batch, attacked=(): batch)
    plain = run(tmp_path / 'without', **asked)
    assert len(loop.rows) == len(plain.rows) == 1 + 2 + 1 + 2 * 8
    for ours, theirs in zip(loop.predictions, plain.predictions, strict=True):
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-6, rtol=1e-5)
    for row in loop.rows:
        timing = row['timing']
        assert timing['noise_to_model'] == pytest.approx(
            timing['noise_seconds'] / timing['model_seconds']
        )


def test_encoders_that_learn_are_remembered_while_nothing_changes_them(
    tmp_path, memos, monkeypatch
):
    model = make_model()
    memo = FeatureMemo(model, trained=True)
    features = memo.serve(make_batch([0, 1]))['features']
    assert memo.encoded == {'a': 2, 'b': 2, 'c': 2}
    expected = model.encode(model.data_preprocessor(make_batch([0, 1]))['inputs'])
    torch.testing.assert_close(torch.stack(features['c']), expected['c'])
    model.encoders['c'].sample_wise = False
    assert FeatureMemo(model, trained=True).encoded == {'a': 0, 'b': 0}
    run(tmp_path / 'grid', seeds=1, attacks=['noise:3@a'])
    run(tmp_path / 'clean')

    def of_an_encoder(self, model):
        return ((x, ('bias',)) for x in model.encoders['c'].modules() if isinstance(x, nn.Linear))

    monkeypatch.setattr(Tent, 'modules', of_an_encoder)
    run(tmp_path / 'adapted', seeds=1, attacks=['noise:3@a'], adaptation=dict(type='Tent'))
    assert [m.encoded.get('c') for m in memos[2:]] == [20, None, None]


# ---- features that outlive a run -----------------------------------------------------------------

GRID = dict(seeds=1, attacks=['noise:3@a', 'swap@a', 'fgsm:3@b'])


def same_bits(one, other):
    pairs = zip(one.predictions, other.predictions, strict=True)
    return all(torch.equal(a.scores, b.scores) for a, b in pairs)


def test_a_second_run_encodes_nothing_and_has_the_same_bits(tmp_path, memos):
    folder = str(tmp_path / 'cache')
    plain = run(tmp_path / 'plain', **GRID)
    first = run(tmp_path / 'first', feature_cache=folder, **GRID)
    second = run(tmp_path / 'second', feature_cache=folder, **GRID)
    assert [m.encoded['a'] for m in memos] == [40, 40, 0]
    assert [m.encoded['b'] for m in memos] == [20, 20, 0]
    assert same_bits(plain, first)
    assert same_bits(plain, second)


def test_other_settings_versions_and_code_are_not_served(tmp_path, memos, monkeypatch):
    folder = str(tmp_path / 'cache')
    run(tmp_path / 'a', feature_cache=folder)
    shifted = run(tmp_path / 'b', shift=0.5, feature_cache=folder)
    assert [m.encoded['a'] for m in memos] == [20, 20]
    assert same_bits(shifted, run(tmp_path / 'c', shift=0.5))
    run(tmp_path / 'd', feature_cache=folder, fp16=True)
    monkeypatch.setattr(torch, '__version__', '0.0.1')
    run(tmp_path / 'e', feature_cache=folder)
    monkeypatch.undo()
    assert [m.encoded['a'] for m in memos[3:]] == [20, 20]


def test_a_torn_file_costs_a_warning_and_its_values(tmp_path, memos, caplog):
    folder = tmp_path / 'cache'
    first = run(tmp_path / 'a', feature_cache=str(folder))
    (torn,) = (folder / 'values').glob('a-*/*.safetensors')
    torn.write_bytes(torn.read_bytes()[:-7])
    assert same_bits(first, run(tmp_path / 'b', feature_cache=str(folder)))
    assert [m.encoded for m in memos] == [{'a': 20, 'b': 20}, {'a': 20, 'b': 0}]
    assert sum('is unusable' in r.message for r in caplog.records) == 1
    run(tmp_path / 'c', feature_cache=str(folder))
    assert memos[2].encoded == {'a': 0, 'b': 0}
    assert sum('is unusable' in r.message for r in caplog.records) == 1
