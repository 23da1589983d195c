"""What cached features depend on: a change of any of it gives another key."""

import functools
import importlib.util
import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cal_mm.models.encoders import BaseEncoder, MLPEncoder, origin
from cal_mm.models.encoders.origin import (
    NoDigestError,
    class_digest,
    encoding_facts,
    item_facts,
    state_of,
)
from cal_mm.models.frontends import DepthFrontEnd, FeatureFrontEnd, ImageFrontEnd, TextFrontEnd
from cal_mm.models.frontends.tokenizers import build_word_tokenizer
from cal_mm.models.preprocessor import MultiModalPreprocessor
from cal_mm.registry import CORRUPTIONS


@pytest.fixture(scope='module')
def words(tmp_path_factory):
    return build_word_tokenizer(['a bee and a sea'], tmp_path_factory.mktemp('words'))


def test_every_setting_of_a_front_end_counts(words):
    fitted = FeatureFrontEnd(standardize=True)
    fitted.fit(dict(mean=[0.0, 1.0], std=[1.0, 1.0]))
    others = build_word_tokenizer(['a bee and a tree'], words / 'other')
    front_ends = [
        ImageFrontEnd(),
        ImageFrontEnd(mean=0.5),
        ImageFrontEnd(std=0.5),
        ImageFrontEnd(size=8),
        ImageFrontEnd(channels=3),
        DepthFrontEnd(),
        DepthFrontEnd(max_depth=5.0),
        DepthFrontEnd(mode='jet'),
        FeatureFrontEnd(standardize=True),
        fitted,
        TextFrontEnd(words),
        TextFrontEnd(words, max_length=9),
        TextFrontEnd(words, padding='max_length'),
        TextFrontEnd(others),
    ]
    told = [json.dumps(state_of(f)) for f in front_ends]
    assert len(set(told)) == len(told)
    again = ImageFrontEnd(mean=0.5)
    again([torch.zeros(3, 4, 4, dtype=torch.uint8)])
    assert state_of(again) == state_of(front_ends[1])
    before = state_of(front_ends[10])
    front_ends[10](['a bee', 'and a bee'])  # leaves padding and truncation in the tokenizer
    assert state_of(front_ends[10]) == before
    assert state_of(TextFrontEnd(words)) == before


class Settings:
    def __init__(self, **values):
        vars(self).update(values)


def test_plain_values_and_objects():
    values = [
        None, True, 2, 1.5, float('nan'), 'x', b'x', [1, 2], [2, 1], {'a': 1}, {'a': 2}, {1, 2},
        np.float32(1.5), np.arange(3), torch.arange(3), torch.arange(3.0), torch.float32, len,
        Path('nowhere'), functools.partial(int, base=2), Settings(a=1), Settings(a=2),
        torch.zeros(0), torch.zeros(0, 2),
    ]  # fmt: skip
    assert len({json.dumps(state_of(v)) for v in values}) == len(values)
    assert state_of({'b': {2, 1}, 'a': 1}) == state_of({'a': 1, 'b': {1, 2}})
    ring = Settings()
    ring.self = ring
    assert state_of(ring) == state_of(ring)
    for unknown in (lambda: 1, np.random.default_rng(0), iter('ab'), np.array([object()])):
        with pytest.raises(NoDigestError):
            state_of([unknown])
    with socket.socket() as s, pytest.raises(NoDigestError, match='socket'):
        state_of(s)


def test_a_file_that_changes_is_noticed(tmp_path):
    path = tmp_path / 'f'
    before = state_of(path)
    path.write_text('one')
    told = state_of(path)
    path.write_text('three')
    assert len({json.dumps(s) for s in (before, told, state_of(path))}) == 3


def test_options_of_a_corruption_count_also_those_that_results_leave_out():
    data = SimpleNamespace(metainfo={'digest': 'd'})

    def facts(**options):
        cfg = dict(type='FeatureGaussianNoise', modality='a', ratio=1.0)
        name = CORRUPTIONS.get('FeatureGaussianNoise').parameter
        cfg[name] = cfg.pop('ratio')
        return item_facts(data, [CORRUPTIONS.build({**cfg, **options})])['corruptions']

    told = [facts(), facts(seed=1), facts(protocol='x'), facts(scale=[1.0]), facts(scale=[2.0])]
    assert len(set(told)) == 5
    assert facts(scale=[2.0]) == told[4]


def load(path, name='own_part'):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where inspect looks
    spec.loader.exec_module(module)
    return module


def test_the_source_of_own_classes_counts(tmp_path):
    path = tmp_path / 'own_part.py'
    path.write_text('from torch import nn\nclass Mine(nn.Module):\n    pass\n')
    before = class_digest([load(path).Mine()])
    assert [name for name, _ in before] == ['own_part.Mine']
    path.write_text(path.read_text() + '    factor = 2\n')
    assert class_digest([load(path).Mine()]) != before
    del sys.modules['own_part']
    assert class_digest([nn.Linear(1, 1), ImageFrontEnd(), 'x', 1]) == []
    made = type('Made', (), {'__module__': 'nowhere_at_all'})()
    with pytest.raises(NoDigestError, match='no source file'):
        class_digest([made])


def test_weights_settings_code_versions_and_modes_count(monkeypatch):
    def facts(seed=0, mean=0.0, width=4):
        torch.manual_seed(seed)
        encoder = MLPEncoder(in_channels=3, hidden_channels=[5], out_channels=width).freeze()
        front_end = FeatureFrontEnd(mean=[mean] * 3, std=[1.0] * 3)
        preprocessor = SimpleNamespace(frontends={'a': front_end}, device=torch.device('cpu'))
        model = SimpleNamespace(encoders={'a': encoder}, data_preprocessor=preprocessor)
        return json.dumps(encoding_facts(model, 'a'))

    told = [facts(), facts(seed=1), facts(mean=1.0), facts(width=5)]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        told.append(facts())
    monkeypatch.setattr(torch, '__version__', '0.0')
    told.append(facts())
    monkeypatch.undo()
    monkeypatch.setattr(origin, 'package_digest', lambda: 'other')
    told.append(facts())
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'other')
    told.append(facts())
    monkeypatch.undo()
    assert len(set(told)) == len(told)
    assert facts() == told[0]


class Scaled(BaseEncoder):
    """One's own: neither ``scale`` nor the convolution's stride is among its facts."""

    def __init__(self, scale=1.0, stride=1, note=None):
        super().__init__(3)
        self.scale, self.note = scale, note
        self.conv = nn.Conv1d(1, 3, 1, stride=stride)
        nn.init.ones_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
        self.freeze()

    def encode(self, x, mask=None):
        return self.scale * self.conv(x[:, None]).mean(dim=-1)


class Gain(MultiModalPreprocessor):
    def __init__(self, gain=1.0, extra=None, **kwargs):
        super().__init__(**kwargs)
        self.gain, self.extra = gain, extra


def facts_of(encoder, preprocessor=MultiModalPreprocessor, **options):
    made = preprocessor(frontends=dict(a=dict(type='FeatureFrontEnd')), **options)
    return encoding_facts(SimpleNamespace(encoders={'a': encoder}, data_preprocessor=made), 'a')


def test_settings_of_an_own_encoder_count_also_those_that_its_digest_leaves_out():
    told = [facts_of(Scaled(**o)) for o in ({}, dict(scale=5.0), dict(stride=2))]
    assert len({json.dumps(t) for t in told}) == 3
    assert len({t['encoder'] for t in told}) == 1
    used = Scaled()
    used(torch.ones(2, 4))
    assert facts_of(used) == told[0]
    with pytest.raises(NoDigestError, match='lambda'):
        facts_of(Scaled(note=lambda: 1))
    shipped = facts_of(MLPEncoder(in_channels=3))
    assert set(shipped) == {'encoder', 'front_end', 'classes', 'code', 'software', 'machine'}


def test_settings_of_an_own_preprocessor_count():
    encoder = MLPEncoder(in_channels=3)
    told = [facts_of(encoder, Gain, **o) for o in ({}, dict(gain=2.0), dict(extra=nn.Linear(1, 1)))]
    assert len({json.dumps(t) for t in [facts_of(encoder), *told]}) == 4
    assert [name for name, _ in told[0]['preprocessor_classes']] == [f'{__name__}.Gain']
    with pytest.raises(NoDigestError, match='lambda'):
        facts_of(encoder, Gain, extra=lambda: 1)
    used = Gain(frontends=dict(a=dict(type='FeatureFrontEnd')))
    model = SimpleNamespace(encoders={'a': encoder}, data_preprocessor=used)
    before = encoding_facts(model, 'a')
    used(dict(inputs=dict(a=[torch.ones(3)]), data_samples=None))  # takes the shape down
    assert encoding_facts(model, 'a') == before


def test_the_package_digest_covers_what_it_names(monkeypatch, tmp_path):
    before = origin.package_digest.__wrapped__()
    for source in origin._SOURCES:
        assert (origin._PACKAGE / source).exists()
        for path in [origin._PACKAGE / source]:
            target = tmp_path / source
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                target.mkdir()
                for file in path.rglob('*.py'):
                    copy = target / file.relative_to(path)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(file.read_bytes())
            else:
                target.write_bytes(path.read_bytes())
    monkeypatch.setattr(origin, '_PACKAGE', tmp_path)
    assert origin.package_digest.__wrapped__() == before
    changed = tmp_path / 'corruptions/image.py'
    changed.write_text(changed.read_text() + '\n')
    assert origin.package_digest.__wrapped__() != before
