"""What the dataset tells its transforms and the noise about the values at their place."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixtures import png, write_prepared

from cal_mm.corruptions import CorruptSample, parse_attack
from cal_mm.corruptions.plan import modality_facts, plan_conditions
from cal_mm.datasets import MultiModalDataset
from cal_mm.engine.hooks import DataStatisticsHook
from cal_mm.models.preprocessor import MultiModalPreprocessor

STD = [0.5, 4.0, 30.0, 0.0, 1.0]
FACTS = {
    'feats': {'std': STD, 'mean': [0.0] * 5, 'shape': [5]},
    'audio': {'sample_rate': 8000},
}


@pytest.fixture
def root(tmp_path):
    return write_prepared(tmp_path / 'tiny', sizes=dict(train=300, test=6), facts=FACTS)


def noisy(modality, **cfg):
    return dict(type='CorruptSample', corruptions=[dict(modality=modality, **cfg)])


def build(root, *steps, modality='feats', **kwargs):
    load = dict(feats='LoadFeatures', audio='LoadAudio')[modality]
    pipeline = [dict(type=load, modality=modality), *steps, dict(type='PackInputs')]
    return MultiModalDataset(root, 'train', pipeline, modalities=[modality], **kwargs)


def corrupt_sample(data):
    return next(t for t in data.pipeline.transforms if isinstance(t, CorruptSample))


def test_feature_noise_has_the_unit_of_the_test_in_training_too(root):
    noise = noisy('feats', type='FeatureGaussianNoise', std=0.5)
    clean, noised = build(root), build(root, noise)
    added = torch.stack(
        [noised[i]['inputs']['feats'] - clean[i]['inputs']['feats'] for i in range(300)]
    )
    np.testing.assert_allclose(added.std(dim=0), 0.5 * np.array(STD), rtol=0.12)
    facts = modality_facts(noised.metainfo)
    (condition,) = parse_attack('gaussian:std=0.5@feats', facts)
    (tested,) = condition.corruptions
    (trained,) = corrupt_sample(noised).versions[0]
    assert tested.scale == trained.scale == STD
    assert tested.describe()['unit'] == trained.describe()['unit']


def test_every_severity_and_a_config_of_its_own_wins(root):
    free = corrupt_sample(build(root, noisy('feats', type='FeatureGaussianNoise')))
    assert [n.scale for n in free.versions[0]] == [STD] * 5
    own = noisy('feats', type='FeatureGaussianNoise', severity=2, scale=[1.0] * 5)
    (noise,) = corrupt_sample(build(root, own)).versions[0]
    assert (noise.scale, noise.value) == ([1.0] * 5, 0.5)


def test_a_transform_that_is_built_outside_is_not_changed(root):
    transform = CorruptSample([dict(type='FeatureGaussianNoise', modality='feats', severity=1)])
    data = build(root, transform)
    assert corrupt_sample(data) is not transform
    assert transform.versions[0][0].scale is None
    assert corrupt_sample(data).versions[0][0].scale == STD


def test_the_sample_rate_is_that_after_resampling(root):
    reverb = noisy('audio', type='WaveformReverb', severity=1)
    plain = build(root, reverb, modality='audio')
    assert corrupt_sample(plain).versions[0][0].sample_rate == 8000
    assert plain.metainfo['modalities']['audio']['sample_rate'] == 8000

    resampled = [dict(type='LoadAudio', modality='audio', sample_rate=4000), reverb]
    data = MultiModalDataset(root, 'train', [*resampled, dict(type='PackInputs')], ['audio'])
    assert corrupt_sample(data).versions[0][0].sample_rate == 4000
    assert data.metainfo['modalities']['audio']['sample_rate'] == 4000
    (condition,) = parse_attack('reverb:1', modality_facts(data.metainfo))
    assert condition.corruptions[0].sample_rate == 4000
    assert data.manifest['modalities']['audio']['sample_rate'] == 8000


def test_a_front_end_of_another_sample_rate_is_refused(root):
    mel = dict(type='LogMelFrontEnd', sample_rate=8000, n_mels=8, n_fft=64)
    fbank = dict(type='FbankFrontEnd', sample_rate=8000, n_mels=8, num_frames=4)
    for front_end in (mel, fbank):
        model = torch.nn.Module()
        model.data_preprocessor = MultiModalPreprocessor(dict(audio=front_end))
        for rate in (None, 8000, 4000):
            load = dict(type='LoadAudio', modality='audio', sample_rate=rate)
            loader = SimpleNamespace(
                dataset=MultiModalDataset(root, 'test', [load, dict(type='PackInputs')], ['audio'])
            )
            for part in ('train', 'val', 'test'):
                loop = SimpleNamespace(dataloader=loader)
                runner = SimpleNamespace(
                    model=model, train_dataloader=loader, val_loop=loop, test_loop=loop
                )
                check = getattr(DataStatisticsHook(), f'before_{part}')
                if rate != 4000:
                    if part != 'train':
                        check(runner)
                    continue
                with pytest.raises(
                    ValueError,
                    match=rf'frontends\.audio\.sample_rate is 8000, but {part}_dataloader gives '
                    r'audio with 4000 Hz; .* sample_rate=8000 in LoadAudio',
                ):
                    check(runner)


def test_a_spectrogram_in_the_workers_of_another_sample_rate_is_refused(root):
    mel = dict(type='LogMelFrontEnd', sample_rate=4000, n_mels=8, n_fft=64)
    step = dict(type='ComputeSpectrogram', modality='audio', frontend=mel)
    with pytest.raises(
        ValueError, match=r"'audio' have 8000 Hz, but frontend\.sample_rate is 4000"
    ):
        build(root, step, modality='audio')
    load = dict(type='LoadAudio', modality='audio', sample_rate=4000)
    MultiModalDataset(root, 'train', [load, step, dict(type='PackInputs')], ['audio'])


def test_depth_turned_into_hha_takes_the_noise_of_images(tmp_path):
    pixels = np.random.default_rng(0).integers(500, 9000, (20, 24)).astype(np.uint16)
    root = write_prepared(
        tmp_path / 'tiny',
        sizes=dict(train=3),
        change={f'train-{i}': dict(depth=png(pixels)) for i in range(3)},
    )
    load = [dict(type='LoadDepth', modality='depth')]
    metres = MultiModalDataset(root, 'train', [*load, dict(type='PackInputs')], ['depth'])
    assert metres.metainfo['modalities']['depth']['kind'] == 'depth'
    hha = [*load, dict(type='DepthToHHA', modality='depth'), dict(type='PackInputs')]
    data = MultiModalDataset(root, 'train', hha, ['depth'])
    facts = modality_facts(data.metainfo)
    assert facts['depth']['kind'] == 'image'
    conditions = plan_conditions(facts, ['noise'], protocol='corruption-1', seeds=1, item=data[0])
    assert len(conditions) > 50
    for condition in conditions:
        (noise,) = condition.corruptions
        if noise.sample_wise:
            out = noise.apply(data[0])['inputs']['depth']
            assert (out.shape, out.dtype) == ((3, 20, 24), torch.uint8)
