"""How fast data comes: samples per second through the loader, beside the usual per-item way.

    python tools/benchmark_data.py CONFIG [CONFIG ...] [--split train] [--num 512] [--workers 2]
    python tools/benchmark_data.py CONFIG --step-time 0.12

For every config, in one run and with the same number of workers and batch size:

* ``loader``: the config's dataset and pipeline, collated, everything read from the disk;
* ``again``: the same in later epochs, where what no transform draws stays in memory
  (``MultiModalDataset(keep_bytes=...)``, as far as it has room);
* ``+ front``: the same and the model's front ends on each batch, here on this processor; training
  runs them on its device;
* ``usual``: the raw files one by one as most public code reads them: Pillow, torchvision's PIL
  transforms, ``ToTensor`` and ``Normalize`` for pictures, ``librosa.load`` and librosa's
  spectrogram for sound, a tokeniser per text. The files are written to a temporary folder first,
  with the bytes that the prepared data holds.

``--step-time`` is the time of one training step in seconds on your accelerator (a batch of the
config's size); the last column is then the share of that accelerator's time that the loader can
fill, above 100 % it waits for nothing. Needs librosa for sound (pip install -e .[dev]).
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from cal_mm import cli, compat
from cal_mm.config import ConfigError, load_config
from cal_mm.datasets import MultiModalDataset, collate_batch
from cal_mm.files import write_atomically
from cal_mm.registry import DATASETS, MODELS

_SUFFIXES = ((b'\xff\xd8', '.jpg'), (b'\x89PNG', '.png'), (b'RIFF', '.wav'), (b'fLaC', '.flac'))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog='benchmark_data.py', description='Samples per second, beside the usual per-item way.'
    )
    p.add_argument('configs', nargs='+', metavar='CONFIG', help='config files')
    p.add_argument('--split', choices=['train', 'val', 'test'], default='train')
    p.add_argument('--num', type=int, default=512, help='samples (default: 512)')
    p.add_argument('--workers', type=int, default=2, help='of both loaders (default: 2)')
    p.add_argument(
        '--clock',
        choices=['wall', 'cpu'],
        default='wall',
        help='cpu: seconds of processor time without workers, which other programs on the machine '
        'do not disturb; samples per second are then per core',
    )
    p.add_argument('--repeats', type=int, default=3, help='the median counts (default: 3)')
    p.add_argument(
        '--step-time', type=float, metavar='SECONDS', help='of one training step on a device'
    )
    p.add_argument('--out', type=Path, metavar='FILE', help='write the figures as JSON')
    cli.add_options_argument(p)
    cli.add_debug_argument(p)
    return p


# --- the usual way


def write_files(dataset: Any, rows: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Write every value of ``rows`` as a file of its own; {modality: path or paths or None}."""
    files = []
    for row in rows:
        raw = dataset.raw(row)
        entry: dict[str, Any] = {'label': raw['label']}
        for name in dataset.modalities:
            entry[name] = _write(raw[name], folder / f'{row}_{name}')
        files.append(entry)
    return files


def _write(value: Any, stem: Path) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        path = stem.with_suffix('.txt')
        path.write_text(value, encoding='utf-8')
    elif isinstance(value, bytes):
        suffix = next((s for start, s in _SUFFIXES if value.startswith(start)), '.bin')
        path = stem.with_suffix(suffix)
        path.write_bytes(value)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], bytes):
        return [_write(v, stem.with_name(f'{stem.name}_{i}')) for i, v in enumerate(value)]
    else:
        path = stem.with_suffix('.npy')
        np.save(path, np.asarray(value, dtype=np.float32))
    return str(path)


def _picture_reader(steps: Sequence[Mapping[str, Any]], depth: bool) -> Callable[[Any], Any]:
    """Pillow and torchvision's PIL transforms with the sizes of the config's pipeline."""
    from PIL import Image
    from torchvision import transforms as T
    from torchvision.transforms import InterpolationMode

    mode = 'RGB'
    chain: list[Any] = []
    for step in steps:
        kind, size = step['type'], step.get('size')
        size = list(size) if isinstance(size, tuple | list) else size
        if kind == 'LoadImage' and step.get('color') == 'grayscale':
            mode = 'L'
        elif kind == 'Resize':
            way = InterpolationMode.NEAREST if depth else InterpolationMode.BILINEAR
            chain.append(T.Resize(size, way))
        elif kind in ('CenterCrop', 'RandomCrop', 'RandomResizedCrop'):
            chain.append(getattr(T, kind)(size))
        elif kind == 'RandomFlip':
            chain.append(T.RandomHorizontalFlip(step.get('prob', 0.5)))
    channels = 1 if mode == 'L' else 3
    tail = T.Compose([T.ToTensor(), T.Normalize([0.5] * channels, [0.5] * channels)])
    before = T.Compose(chain)

    def one(path: str) -> torch.Tensor:
        with Image.open(path) as image:
            if depth and image.mode.startswith('I'):
                metres = np.asarray(image).astype(np.float32) / 1000
                grey = Image.fromarray((255 * (metres / 10).clip(0, 1)).astype(np.uint8))
                return tail(before(grey.convert('RGB')))
            return tail(before(image.convert(mode)))

    def read(path: Any) -> torch.Tensor:
        return torch.stack([one(p) for p in path]) if isinstance(path, list) else one(path)

    return read


def _sound_reader(
    steps: Sequence[Mapping[str, Any]], frontend: Mapping[str, Any]
) -> Callable[[Any], Any]:
    """``librosa.load`` and a log (mel) spectrogram with the numbers of the config's front end."""
    try:
        import librosa
    except ImportError as e:
        raise ImportError(
            'the usual way of reading sound needs librosa: pip install -e .[dev]'
        ) from e
    from cal_mm.models.frontends import audio_preset

    load, front = dict(next(s for s in steps if s['type'] == 'LoadAudio')), dict(frontend)
    if 'preset' in load:
        load = {**audio_preset(load['preset']).load, **load}
    if front.get('type') == 'AudioPreset':
        front = {**audio_preset(front['name']).frontend, **front}
    rate = load.get('sample_rate')
    n_fft, hop = front.get('n_fft', 512), front.get('hop_length', 160)
    mels = front.get('n_mels')
    seconds = load.get('duration')

    def read(path: str) -> torch.Tensor:
        wave, found = librosa.load(path, sr=rate)
        if seconds:
            wave = np.tile(wave, int(np.ceil(seconds * found / len(wave))))[: int(seconds * found)]
        if mels:
            power = librosa.feature.melspectrogram(
                y=wave, sr=found, n_fft=n_fft, hop_length=hop, n_mels=mels
            )
        else:
            power = np.abs(librosa.stft(wave, n_fft=n_fft, hop_length=hop))
        return torch.from_numpy(np.log(power + 1e-7))

    return read


def _text_reader(frontend: Mapping[str, Any]) -> Callable[[Any], Any]:
    from cal_mm.models.frontends import load_tokenizer

    tokenizer = load_tokenizer(frontend['tokenizer'])
    length = frontend.get('max_length', 128)

    def read(path: str) -> torch.Tensor:
        text = Path(path).read_text(encoding='utf-8').strip()
        encoded = tokenizer(text, padding='max_length', truncation=True, max_length=length)
        return torch.tensor([encoded['input_ids'], encoded['attention_mask']])

    return read


class UsualDataset(Dataset):
    """The files, read and made ready one by one.

    Args:
        files: from :func:`write_files`.
        kinds: modality -> kind.
        steps: modality -> transforms of the config that concern it.
        frontends: modality -> config of its front end.
    """

    def __init__(
        self,
        files: Sequence[Mapping[str, Any]],
        kinds: Mapping[str, str],
        steps: Mapping[str, Sequence[Mapping[str, Any]]],
        frontends: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.files = list(files)
        self.readers = {m: _reader(kinds[m], steps[m], frontends.get(m, {})) for m in kinds}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        entry = self.files[index]
        found = {m: read(entry[m]) for m, read in self.readers.items() if entry[m] is not None}
        return {**found, 'label': entry['label']}


def _reader(
    kind: str, steps: Sequence[Mapping[str, Any]], frontend: Mapping[str, Any]
) -> Callable[[Any], Any]:
    if kind in ('image', 'depth'):
        return _picture_reader(steps, kind == 'depth')
    if kind == 'waveform':
        return _sound_reader(steps, frontend)
    if kind == 'text' and 'tokenizer' in frontend:
        return _text_reader(frontend)
    if kind == 'text':
        return lambda path: Path(path).read_text(encoding='utf-8')
    return lambda path: torch.from_numpy(np.load(path))


def _collate_usual(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacked where all samples have a tensor of one shape."""
    batch: dict[str, Any] = {}
    for name in items[0]:
        values: list[Any] = [item.get(name) for item in items]
        same = all(torch.is_tensor(v) for v in values) and len({v.shape for v in values}) == 1
        batch[name] = torch.stack(values) if same else values
    return batch


# --- measuring


def _seconds(
    loader: DataLoader, use: Callable[[Any], Any] | None, clock: Callable[[], float]
) -> Iterator[float]:
    """Seconds of one pass after another."""
    while True:
        start = clock()
        for batch in loader:
            if use is not None:
                use(batch)
        yield clock() - start


def rates(
    loaders: Mapping[str, tuple[DataLoader, Callable[[Any], Any] | None]],
    count: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Samples per second of each, the median over ``repeats`` passes.

    The passes take turns, so that another load on the machine hits all alike; a first pass of each
    warms workers and the file cache and does not count.
    """
    passes = {name: _seconds(loader, use, clock) for name, (loader, use) in loaders.items()}
    for one in passes.values():
        next(one)
    found: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(repeats):
        for name, one in passes.items():
            found[name].append(next(one))
    return {name: count / statistics.median(seconds) for name, seconds in found.items()}


def _worker(_: int) -> None:
    torch.set_num_threads(1)


def _loader(dataset: Any, batch: int, workers: int, collate: Callable) -> DataLoader:
    return DataLoader(
        dataset,
        batch,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
        worker_init_fn=_worker,
        multiprocessing_context='fork' if workers and os.name != 'nt' else None,
    )


def measure(path: str, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of one config."""
    cfg = load_config(path, args.cfg_options)
    loader_cfg = cfg.get(f'{args.split}_dataloader')
    if loader_cfg is None:
        raise ConfigError(f'{path}: there is no {args.split}_dataloader')
    keeping = DATASETS.build(loader_cfg['dataset'])
    if not isinstance(keeping, MultiModalDataset):
        raise ValueError(f'{path}: the raw values of {type(keeping).__name__} are not known')
    dataset = DATASETS.build(dict(loader_cfg['dataset'], keep_bytes=0))
    count = min(args.num, len(dataset))
    rows = [int(i) for i in np.random.default_rng(0).permutation(len(dataset))[:count]]
    batch = int(loader_cfg.get('batch_size', 32))
    preprocessor = MODELS.build(cfg.model['data_preprocessor'])
    if hasattr(preprocessor, 'fit'):
        preprocessor.fit(dataset)
    names = [m for m in dataset.modalities if m in preprocessor.modalities]
    steps = {m: _steps(loader_cfg['dataset']['pipeline'], m) for m in names}
    frontends = cfg.model['data_preprocessor']['frontends']
    ours: Any = Subset(dataset, rows)
    kept: Any = Subset(keeping, rows)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        files = write_files(dataset, rows, Path(folder))
        usual = UsualDataset(files, {m: dataset.kinds[m] for m in names}, steps, frontends)
        found = rates(
            {
                'loader': (_loader(ours, batch, args.workers, collate_batch), None),
                'again': (_loader(kept, batch, args.workers, collate_batch), None),
                'frontend': (_loader(ours, batch, args.workers, collate_batch), preprocessor),
                'usual': (_loader(usual, batch, args.workers, _collate_usual), None),
            },
            count,
            args.repeats,
            time.process_time if args.clock == 'cpu' else time.perf_counter,
        )
    result: dict[str, Any] = {
        'config': path,
        'dataset': dataset.metainfo['dataset'],
        'frontends': {m: type(preprocessor.frontends[m]).__name__ for m in names},
        'samples': count,
        'batch_size': batch,
        'workers': args.workers,
        'clock': args.clock,
        **{f'{name}_per_second': rate for name, rate in found.items()},
        'ratio': found['loader'] / found['usual'],
        'ratio_again': found['again'] / found['loader'],
        'ratio_with_frontends': found['frontend'] / found['usual'],
    }
    if args.step_time:
        # a step takes a batch; the front ends run on the device then
        result['step_share'] = found['loader'] * args.step_time / batch
    return result


def _steps(pipeline: Sequence[Any], modality: str) -> list[Mapping[str, Any]]:
    """Transforms of ``modality``, in order."""
    found = []
    for step in pipeline:
        if not isinstance(step, Mapping) or step['type'] == 'PackInputs':
            continue
        names = step.get('modality') or step.get('modalities') or ()
        if modality in ([names] if isinstance(names, str) else list(names)):
            found.append(step)
    return found


def main(args: argparse.Namespace) -> None:
    """Measure and print a table."""
    compat.setup()
    if min(args.num, args.repeats) < 1 or args.workers < 0:
        raise ValueError('--num and --repeats must be at least 1, --workers at least 0')
    if args.clock == 'cpu':
        args.workers = 0
        torch.set_num_threads(1)
    if args.step_time is not None and not args.step_time > 0:
        raise ValueError(f'--step-time must be > 0 seconds, got {args.step_time}')
    head = (
        f'{"dataset":14} {"front ends":44} {"loader":>8} {"again":>8} {"+ front":>8} '
        f'{"usual":>8} {"ratio":>6} {"+ front":>7}'
    )
    print(head + (f' {"step":>7}' if args.step_time else ''))
    found = []
    for path in args.configs:
        row = measure(path, args)
        found.append(row)
        fronts = ', '.join(f'{m} {t.removesuffix("FrontEnd")}' for m, t in row['frontends'].items())
        line = (
            f'{row["dataset"]:14} {fronts[:44]:44} {row["loader_per_second"]:8.0f} '
            f'{row["again_per_second"]:8.0f} {row["frontend_per_second"]:8.0f} '
            f'{row["usual_per_second"]:8.0f} '
            f'{row["ratio"]:5.2f}x {row["ratio_with_frontends"]:6.2f}x'
        )
        print(line + (f' {row["step_share"]:7.0%}' if args.step_time else ''), flush=True)
    print(
        '\nsamples per second; ratio: the loader over the usual way; + front: with the front ends '
        'on this processor'
    )
    if args.out:
        write_atomically(args.out, json.dumps(found, indent=2) + '\n')


if __name__ == '__main__':
    cli.run(main, parser())
