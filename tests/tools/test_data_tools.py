"""tools/browse_dataset.py and tools/benchmark_data.py on small data."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from cli_runner import call, load_tool
from PIL import Image

from cal_mm.visualization.contact_sheet import Card, draw_sheet
from data_prep.common import DatasetSpec, write_dataset
from data_prep.synthetic import make_synthetic

CONFIG = """
pipeline = [
    dict(type='LoadImage', modality='image'),
    dict(type='Resize', modality='image', size=(20, 20)),
    dict(type='LoadDepth', modality='depth'),
    dict(type='LoadAudio', modality='sound', sample_rate=8000),
    dict(type='LoadText', modality='words'),
    dict(type='LoadFeatures', modality='numbers'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type='MultiModalDataset', data_root={root!r}, split='train', pipeline=pipeline
    ),
)
model = dict(
    data_preprocessor=dict(
        type='MultiModalPreprocessor',
        frontends=dict(
            image=dict(type='ImageFrontEnd'),
            depth=dict(type='DepthFrontEnd', mode='jet'),
            sound=dict(type='SpectrogramFrontEnd', n_fft=64, hop_length=32),
            numbers=dict(type='FeatureFrontEnd'),
        ),
    ),
    encoders=dict(image=dict(), depth=dict(), sound=dict(), numbers=dict()),
)
"""


def encoded(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, 'PNG')
    return sink.getvalue()


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config over a dataset with a modality of every kind; the first sample lacks three."""
    top = tmp_path_factory.mktemp('every_kind')
    rng = np.random.default_rng(0)
    samples = []
    for i in range(10):
        sink = io.BytesIO()
        wave = 0.5 * np.sin(np.arange(800) * (0.05 + 0.02 * i))
        soundfile.write(sink, wave, 8000, format='WAV', subtype='PCM_16')
        samples.append(
            dict(
                sample_id=f's{i}',
                label=i % 2,
                group='',
                image=encoded(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)),
                depth=encoded(rng.integers(500, 4000, (20, 20)).astype(np.uint16)) if i else None,
                sound=sink.getvalue() if i else None,
                words=f'some $words and 中文 number {i} ' * 5,
                numbers=rng.normal(size=6) if i else None,
            )
        )
    kinds = dict(image='image', depth='depth', sound='waveform', words='text', numbers='features')
    spec = DatasetSpec(
        name='every_kind',
        version='1',
        protocol='none',
        classes=('no', 'yes'),
        modalities={m: dict(kind=k) for m, k in kinds.items()},
    )
    write_dataset(top / 'data', spec, {'train': samples}, progress=False)
    path = top / 'config.py'
    path.write_text(CONFIG.replace('{root!r}', repr(str(top / 'data'))))
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == 'PNG'
        return np.asarray(image.convert('RGB')).astype(int)


def test_browse_every_kind(config: Path, tmp_path: Path) -> None:
    out = tmp_path / 'sheet.png'
    code, text, err = call('browse_dataset', config, '--num', '4', '--start', '0', '--out', out)
    assert code == 0, err
    assert '4 samples' in text
    clean = pixels(out)
    assert min(clean.shape[:2]) > 300
    assert [p.name for p in tmp_path.iterdir()] == ['sheet.png']
    # the noise shows, and only then
    code, _, err = call(
        'browse_dataset', config, '--num', 4, '--start', 0, '--out', out, '--attack',
        'gaussian:5@image', 'missing@sound',
    )  # fmt: skip
    assert code == 0, err
    noisy = pixels(out)
    assert noisy.shape == clean.shape or noisy.shape[1] == clean.shape[1]
    call('browse_dataset', config, '--num', '4', '--start', '0', '--out', tmp_path / 'again.png')
    np.testing.assert_array_equal(pixels(tmp_path / 'again.png'), clean)
    assert noisy.shape != clean.shape or (noisy != clean).any()
    code, _, err = call('browse_dataset', config, '--ids', 's7', 's3', '--out', out)
    assert code == 0, err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--num', '0'], '--num must be 1 to 100'),
        (['--ids', 'nobody'], "no sample 'nobody'"),
        (['--split', 'test'], 'no test_dataloader'),
        (['--out', 'sheet.jpg'], 'ends in .png'),
        (['--out', 'nowhere/sheet.png'], 'does not exist'),
        (['--attack', 'gaussian@image'], 'give one severity'),
        (['--attack', 'gauss:3@image'], 'gauss'),
        (['--start', '99'], '--start must be in'),
    ],
)
def test_browse_refuses(config: Path, arguments: list[str], message: str) -> None:
    code, _, err = call('browse_dataset', config, *arguments)
    assert code == 1
    assert message in err


def test_sheet_draws_what_is_there(tmp_path: Path) -> None:
    """The picture's colour is on the sheet; a missing one leaves its place."""
    green = torch.zeros(3, 8, 8, dtype=torch.uint8)
    green[1] = 200
    kinds = {'image': 'image'}
    cards = [Card('a', 'yes', {'image': green}, kinds), Card('b', 'no', {'image': None}, kinds)]
    draw_sheet(cards, tmp_path / 'two.png', columns=2)
    found = pixels(tmp_path / 'two.png')
    is_green = (found == [0, 200, 0]).all(axis=2)
    left, right = np.array_split(is_green, 2, axis=1)
    assert left.mean() > 0.1
    assert not right.any()
    frames = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    clip = Card('c', 'yes', {'image': frames}, kinds)
    draw_sheet([clip, *cards], tmp_path / 'three.png')
    with pytest.raises(ValueError, match='at least one'):
        draw_sheet([], tmp_path / 'none.png')


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of librosa's imports
def test_benchmark_reads_the_same_values_both_ways(config: Path) -> None:
    """What the usual way reads is what the loader gives: no comparison with less work."""
    tool = load_tool('benchmark_data')
    from cal_mm.config import load_config
    from cal_mm.registry import DATASETS

    cfg = load_config(str(config))
    loader = cfg.train_dataloader
    dataset = DATASETS.build(loader['dataset'])
    folder = config.parent / 'files'
    folder.mkdir()
    files = tool.write_files(dataset, [0, 1, 2], folder)
    assert files[0]['depth'] is None
    names = ['image', 'depth', 'sound', 'words', 'numbers']
    steps = {m: tool._steps(loader['dataset']['pipeline'], m) for m in names}
    assert [s['type'] for s in steps['image']] == ['LoadImage', 'Resize']
    pytest.importorskip('librosa')
    frontends = cfg.model.data_preprocessor.frontends
    usual = tool.UsualDataset(files, {m: dataset.kinds[m] for m in names}, steps, frontends)
    item, ours = usual[1], dataset[1]['inputs']
    assert set(usual[0]) == {'image', 'words', 'label'}
    assert item['words'].strip() == ours['words']
    np.testing.assert_allclose(item['numbers'], ours['numbers'])
    picture = (item['image'] * 0.5 + 0.5) * 255
    assert float((picture - ours['image']).abs().mean()) < 3
    metres = (item['depth'][0] * 0.5 + 0.5) * 10
    np.testing.assert_allclose(metres, ours['depth'][0], atol=0.05)
    assert item['sound'].shape == (33, 26)


def test_benchmark_table(tmp_path: Path) -> None:
    make_synthetic(tmp_path / 'data', num_train=24, num_val=8, num_test=8)
    root = f'train_dataloader.dataset.data_root={tmp_path / "data"}'
    code, out, err = call(
        'benchmark_data', 'configs/concat/synthetic_mlp_concat_concat.py', '--num', 20,
        '--clock', 'cpu', '--repeats', 2, '--step-time', 0.5, '--out', tmp_path / 'new' / 'b.json',
        '--cfg-options', root,
    )  # fmt: skip
    assert code == 0, err
    assert 'synthetic' in out
    (row,) = json.loads((tmp_path / 'new' / 'b.json').read_text())
    assert row['samples'] == 20
    expected = row['loader_per_second'] * 0.5 / row['batch_size']
    assert row['step_share'] == pytest.approx(expected)
    assert row['ratio'] == pytest.approx(row['loader_per_second'] / row['usual_per_second'])
    with_front = row['frontend_per_second'] / row['usual_per_second']
    assert row['ratio_with_frontends'] == pytest.approx(with_front)
    code, _, err = call('benchmark_data', 'x.py', '--repeats', 0)
    assert code == 1
    assert '--repeats' in err
