"""CMU-MOSI, utterances: text, audio and video features, negative or positive.

    python -m data_prep.cmu_mosi --raw DIR --out data/cmu_mosi

``DIR`` holds ``index.csv`` (split, video_id, utterance, label, text) and, with one row per line of
it in the same order, ``text_cnn.npy``, ``audio_opensmile.npy`` and ``video_3dcnn.npy``. The split
is speaker independent: 1,447 utterances for training, of which whole videos become the validation
split, and 752 for the test. Values are stored as they are; mean and standard deviation of the
training split are in the manifest, for the front end to standardise with. ``--transcript`` adds the
words themselves as the modality ``transcript``.

The text and video features were fitted to the labels of the training utterances: on training videos
that a classifier has not seen they give 98 and 91 %, on the test videos 75 and 52 %. A validation
split made of training videos therefore says little about the test. ``--protocol unseen`` makes
train, val and test out of the 31 test videos alone, whose features know no label.
"""

import argparse
import csv
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ in (None, ''):  # started as a file: make the package importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray

from cal_mm.seeding import sample_key
from data_prep.common import (
    BadSampleError,
    DatasetSpec,
    Sample,
    WriteReport,
    make_parser,
    run_cli,
    write_dataset,
)
from data_prep.common.grouped import grouped_choice

__all__ = ['FILES', 'make_cmu_mosi']

CLASSES = ('negative', 'positive')
PROTOCOLS = {
    'published': 'speaker-independent 1447/752, validation by video',
    'unseen': 'the 752 test utterances alone, by video',
}
#: share of the utterances that ``unseen`` tests on
UNSEEN_TEST_SHARE = 0.4
NOTE = (
    'text and video features were fitted to the labels of the training utterances: validation on '
    'training videos is far too optimistic (docs/datasets/cmu_mosi.md)'
)
#: modality -> (file, what it is)
FILES = {
    'text': ('text_cnn.npy', 'utterance features of a text CNN'),
    'audio': ('audio_opensmile.npy', 'openSMILE features'),
    'video': ('video_3dcnn.npy', 'utterance features of a 3D CNN'),
}
Rows = list[dict[str, str]]


def make_cmu_mosi(
    raw: str | Path,
    out: str | Path,
    *,
    protocol: str = 'published',
    seed: int = 0,
    val_share: float = 0.2,
    transcript: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> WriteReport:
    """Prepare the features.

    Args:
        raw: folder of the raw files.
        out: folder of the dataset.
        protocol: ``published``, or ``unseen`` (see above).
        seed: of the draw of the validation videos.
        val_share: share of the training utterances for validation, in whole videos.
        transcript: add the words as the modality ``transcript``.
        overwrite: replace another dataset at ``out``.
        progress: show progress on a terminal.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file has another layout than expected.
    """
    raw = Path(raw)
    if protocol not in PROTOCOLS:
        raise ValueError(f'protocol {protocol!r}: expected one of {", ".join(PROTOCOLS)}')
    rows = _read_index(raw / 'index.csv')
    data = {m: _read_features(raw / name, len(rows)) for m, (name, _) in FILES.items()}
    parts = _splits(rows, protocol, seed, val_share)
    digest = hashlib.sha256()
    for name in ('index.csv', *(f for f, _ in FILES.values())):
        digest.update(hashlib.sha256((raw / name).read_bytes()).digest())
    modalities = {m: _facts(x[parts['train']], m) for m, x in data.items()}
    if transcript:
        modalities['transcript'] = dict(kind='text', description='the words, upper case')
    published = {s: sum(r['split'] == s for r in rows) for s in ('train', 'val', 'test')}
    videos = {s: len({rows[i]['video_id'] for i in index}) for s, index in parts.items()}
    spec = DatasetSpec(
        name='cmu_mosi',
        version='1',
        protocol=PROTOCOLS[protocol],
        classes=CLASSES,
        modalities=modalities,
        settings=dict(protocol=protocol, seed=seed, val_share=val_share, transcript=transcript),
        facts=dict(raw_utterances=published, videos=videos, **_overlap(rows)),
    )
    if protocol == 'published':
        spec = replace(spec, facts={**spec.facts, 'note': NOTE})
    splits = {s: list(_samples(rows, data, index, transcript)) for s, index in parts.items()}
    return write_dataset(
        out,
        spec,
        splits,
        source=digest.hexdigest(),
        overwrite=overwrite,
        progress=progress,
    )


def _read_index(path: Path) -> Rows:
    try:
        with path.open(encoding='utf-8-sig', newline='') as f:
            reader = csv.DictReader(f)
            needed = {'split', 'video_id', 'utterance', 'label', 'text'}
            if not needed <= set(reader.fieldnames or ()):
                raise ValueError(
                    f'{path} needs the columns {", ".join(sorted(needed))}, it has '
                    f'{", ".join(reader.fieldnames or ())}'
                )
            rows = []
            for row in reader:
                where = f'{path} line {reader.line_num}'
                if row['split'] not in ('train', 'val', 'test'):
                    raise ValueError(f'{where}: split {row["split"]!r}: expected train, val, test')
                if row['label'] not in ('0', '1'):
                    raise ValueError(
                        f'{where}: label {row["label"]!r}, expected 0 (negative) or 1 (positive)'
                    )
                if not row['video_id'] or not row['utterance']:
                    raise ValueError(f'{where}: video_id or utterance is empty')
                rows.append(row)
    except FileNotFoundError as e:
        raise FileNotFoundError(f'{path} is missing: --raw must be the folder that has it') from e
    if not any(r['split'] == 'train' for r in rows):
        raise ValueError(f'{path} has no training rows')
    return rows


def _read_features(path: Path, count: int) -> NDArray[np.float32]:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as e:
        raise FileNotFoundError(f'{path} is missing: it belongs beside index.csv') from e
    except (ValueError, OSError, EOFError) as e:
        raise ValueError(f'{path} is truncated or no npy file: {e}') from e
    if array.ndim != 2 or len(array) != count or array.dtype.kind not in 'fiu':
        raise ValueError(
            f'{path} has {array.dtype} {list(array.shape)}, expected numbers [{count}, D]: one row '
            'per line of index.csv'
        )
    return array.astype(np.float32)


def _splits(rows: Rows, protocol: str, seed: int, val_share: float) -> dict[str, list[int]]:
    """Rows of each split; a validation split that the index has is kept (``published``)."""
    of = {s: [i for i, r in enumerate(rows) if r['split'] == s] for s in ('train', 'val', 'test')}
    if protocol == 'unseen':
        rest, test = _carved(rows, of['test'], UNSEEN_TEST_SHARE, seed, 'unseen-test')
        train, val = _carved(rows, rest, val_share, seed, 'unseen-val')
        return dict(train=train, val=val, test=test)
    if not of['val']:
        of['train'], of['val'] = _carved(rows, of['train'], val_share, seed, 'val')
    return {s: index for s, index in of.items() if index}


def _carved(
    rows: Rows, index: Sequence[int], share: float, seed: int, purpose: str
) -> tuple[list[int], list[int]]:
    """``index`` in two parts of whole videos; the second has about ``share``."""
    rng = np.random.default_rng(sample_key(seed, 'cmu_mosi', purpose))
    labels = [int(rows[i]['label']) for i in index]
    chosen = set(grouped_choice(labels, [rows[i]['video_id'] for i in index], share, rng))
    first = [x for k, x in enumerate(index) if k not in chosen]
    return first, [x for k, x in enumerate(index) if k in chosen]


def _overlap(rows: Rows) -> dict[str, Any]:
    """Videos in both published parts; the protocol promises none."""
    train = {r['video_id'] for r in rows if r['split'] != 'test'}
    test = {r['video_id'] for r in rows if r['split'] == 'test'}
    return dict(videos_in_train_and_test=sorted(train & test))


def _facts(train: NDArray[np.float32], modality: str) -> dict[str, Any]:
    """Shape, and mean and standard deviation (population) over the finite training rows."""
    wide = train.astype(np.float64)
    wide = wide[np.isfinite(wide).all(axis=1)]
    if not len(wide):
        raise ValueError(f'{FILES[modality][0]}: no training row is finite')
    return dict(
        kind='features',
        shape=[train.shape[1]],
        description=FILES[modality][1],
        mean=[float(f'{v:.9g}') for v in wide.mean(0)],
        std=[float(f'{v:.9g}') for v in wide.std(0)],
    )


def _samples(
    rows: Rows, data: dict[str, NDArray[np.float32]], index: Sequence[int], transcript: bool
) -> Iterator[Sample | BadSampleError]:
    for i in index:
        row = rows[i]
        sample_id = f'{row["video_id"]}_{row["utterance"]}'
        wrong = [FILES[m][0] for m, x in data.items() if not np.isfinite(x[i]).all()]
        if wrong:  # also checked when written; here with the file and its row
            yield BadSampleError(sample_id, f'{", ".join(wrong)} row {i}: values not finite')
            continue
        sample: Sample = dict(
            sample_id=sample_id,
            label=int(row['label']),
            group=row['video_id'],
            **{m: x[i] for m, x in data.items()},
        )
        if transcript:
            sample['transcript'] = row['text'].strip() or None  # nothing said: missing
        yield sample


def _prepare(args: argparse.Namespace) -> WriteReport:
    if args.protocol == 'published':
        print(f'note: {NOTE}', file=sys.stderr)
    return make_cmu_mosi(
        args.raw,
        args.out,
        protocol=args.protocol,
        seed=args.seed,
        val_share=args.val_share,
        transcript=args.transcript,
        overwrite=args.overwrite,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = make_parser('cmu_mosi', (__doc__ or '').splitlines()[0], raw=True)
    parser.add_argument('--protocol', choices=tuple(PROTOCOLS), default='published')
    parser.add_argument(
        '--val-share',
        type=float,
        default=0.2,
        metavar='SHARE',
        help='of the training utterances, in whole videos (default: 0.2)',
    )
    parser.add_argument(
        '--transcript', action='store_true', help='add the words as the modality transcript'
    )
    return run_cli(_prepare, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
