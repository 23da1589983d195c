"""One training step of the configs of NYUD2, SUN RGB-D, CMU-MOSI and MVSA with BERT, made small."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from cal_mm import compat
from cal_mm.config import load_config
from cal_mm.datasets import MultiModalDataset
from cal_mm.models.frontends import build_word_tokenizer
from data_prep import cmu_mosi, mvsa_single, nyud2, sun_rgbd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests' / 'data_prep'))

from rgbd_raw import jpeg, rows_of, write_index, write_mosi, write_side_by_side  # noqa: E402

NATIVE = ('bedroom', 'kitchen', 'office')


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Prepared data by the name that the configs have for it."""
    top = tmp_path_factory.mktemp('rgbd')
    index = write_index(top / 'index', rows_of(40) + rows_of(4, 'test', 101))
    sides = write_side_by_side(top / 'sides', {'train': 6, 'val': 2, 'test': 2}, NATIVE)
    rows = [r for r in rows_of(40) + rows_of(10, 'test', 101) if r['label'] != 'others']
    for row in rows:
        row['scene_type'] = ''
    sun = write_index(top / 'sun', rows)
    raw = top / 'mvsa'
    (raw / 'data').mkdir(parents=True)
    lines = ['ID\ttext,image']
    for i in range(30):
        label = ('positive', 'negative', 'neutral')[i % 3]
        lines.append(f'{i}\t{label},{label}')
        (raw / 'data' / f'{i}.jpg').write_bytes(jpeg(i))
        (raw / 'data' / f'{i}.txt').write_text(f'tweet number {i} is {label}')
    (raw / 'labelResultAll.txt').write_text('\n'.join(lines) + '\n')
    quiet = dict(progress=False)
    nyud2.make_nyud2(index, top / 'nyud2', **quiet)
    nyud2.make_nyud2(sides, top / 'nyud2_rendered', **quiet)
    sun_rgbd.make_sun_rgbd(sun, top / 'sun_rgbd', **quiet)
    sun_rgbd.make_sun_rgbd(sides, top / 'sun_rgbd_rendered', **quiet)
    cmu_mosi.make_cmu_mosi(write_mosi(top / 'mosi'), top / 'cmu_mosi', **quiet)
    mvsa_single.make_mvsa_single(raw, top / 'mvsa_single', **quiet)
    build_word_tokenizer([f'tweet number {i} is positive' for i in range(30)], top / 'words')
    return {p.name: p for p in top.iterdir()}


def small(name: str, method: str, roots: dict[str, Path], work: Path) -> Config:
    """The config with tiny encoders of the same kind, tiny pictures and one batch."""
    cfg = load_config(str(ROOT / f'configs/{method}/{name}_concat_{method}.py'))
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.dataset.data_root = str(roots[Path(loader.dataset.data_root).name])
        loader.update(num_workers=0, persistent_workers=False, batch_size=6)
        for step in loader.dataset.pipeline:
            if 'size' in step:
                step['size'] = (40, 40) if step['type'] == 'Resize' else 32
    cfg.train_dataloader.dataset.indices = 12
    for encoder in cfg.model.encoders.values():
        if encoder['type'] == 'TimmEncoder':
            for key in ('checkpoint', 'pretrained'):
                encoder.pop(key, None)
            encoder['model_name'] = 'test_resnet'
    if 'text' in cfg.model.encoders and cfg.model.encoders.text['type'] == 'HFTextEncoder':
        tiny = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        bert = dict(model_type='bert', vocab_size=64, intermediate_size=16, **tiny)
        cfg.model.encoders.text = dict(type='HFTextEncoder', config=bert, pooling='cls')
        cfg.model.data_preprocessor.frontends.text.tokenizer = str(roots['words'])
    source = cfg.model.get('contribution', {}).get('source')
    if source == 'pilot':
        cfg.model.contribution.source = dict(type='PilotSource', updates=2)
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
    cfg.visualizer = None
    cfg.work_dir = str(work)
    cfg.experiment_name = f'{name}_{method}_{work.name}'
    return cfg


NAMES = (
    'nyud2_resnet18',
    'nyud2_hha_resnet18',
    'nyud2_rendered_resnet18',
    'nyud2_frozen',
    'nyud2_finetuned',
    'nyud2_small',
    'sun_rgbd_resnet18',
    'sun_rgbd_rendered_resnet18',
    'cmu_mosi_mlp',
    'mvsa_single_bert_resnet152',
    'mvsa_single_finetuned',
)


ALL = ('nyud2', 'sun_rgbd', 'cmu_mosi', 'mvsa_single_bert', 'mvsa_single_finetuned')


@pytest.mark.slow
@pytest.mark.parametrize('method', ['concat', 'cal'])
@pytest.mark.parametrize('name', NAMES)
def test_trains(name: str, method: str, roots: dict[str, Path], tmp_path: Path) -> None:
    compat.setup()
    cfg = small(name, method, roots, tmp_path)
    runner = Runner.from_cfg(cfg)
    before = {k: v.clone() for k, v in runner.model.state_dict().items() if k.startswith('fusion')}
    runner.train()
    after = runner.model.state_dict()
    assert any(not torch.equal(v, after[k]) for k, v in before.items())
    # the means of classes that the few samples lack are infinite, on purpose
    bad = [
        k
        for k, v in after.items()
        if v.is_floating_point() and not v.isfinite().all() and 'class_means' not in k
    ]
    assert not bad
    schedule = cfg.param_scheduler
    if schedule and schedule[0]['type'] == 'ReduceOnPlateauLR':
        assert 'accuracy/top1' in str(schedule[0]['monitor'])
    runner.test()


def test_every_config_of_these_datasets_is_in_the_list() -> None:
    for method in ('concat', 'cal'):
        found = {
            p.name.removesuffix(f'_concat_{method}.py')
            for p in (ROOT / 'configs' / method).glob('*.py')
            if p.name.startswith(ALL)
        }
        assert found == set(NAMES)


def test_crops_and_flips_of_rgb_and_depth_are_the_same_draw(roots: dict[str, Path]) -> None:
    """A picture whose red channel is its depth stays so, and the epochs differ."""
    import io

    import numpy as np
    from PIL import Image

    from data_prep.common.png import encode_png

    pattern = np.arange(256, dtype=np.uint8).reshape(16, 16)
    sink = io.BytesIO()
    Image.fromarray(np.stack([pattern] * 3, axis=2)).save(sink, 'PNG')
    cfg = load_config(str(ROOT / 'configs/concat/nyud2_resnet18_concat_concat.py'))
    steps = [dict(s) for s in cfg.train_dataloader.dataset.pipeline]
    for step in steps:
        if step['type'] == 'Resize':
            step['size'] = (16, 16)
        elif step['type'] == 'RandomCrop':
            step['size'] = 10
    data = MultiModalDataset(roots['nyud2'], 'train', steps)
    raw = data.raw
    millimetres = encode_png(pattern.astype(np.uint16) * 10)
    data.raw = lambda i: {**raw(i), 'rgb': sink.getvalue(), 'depth': millimetres}  # type: ignore[method-assign]
    seen = set()
    for epoch in range(3):
        data.set_epoch(epoch)
        for i in range(8):
            inputs = data[i]['inputs']
            expected = inputs['rgb'][:1].double() / 100
            torch.testing.assert_close(inputs['depth'].double(), expected, atol=1e-6, rtol=0)
            seen.add((int(inputs['rgb'][0, 0, 0]), int(inputs['rgb'][0, 0, -1])))
    assert len(seen) > 5
    assert {a < b for a, b in seen} == {True, False}, 'flipped and not flipped'
