"""MVSA-Single, the six views, the synthetic features."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk

from data_prep import mvsa_single, synthetic, uci_digits
from data_prep.common import read_manifest, verify
from data_prep.common.splits import read_split_list, stratified_choice, stratified_splits
from data_prep.common.texts import decode_text
from data_prep.mvsa_parts import joint_label, read_label_table

ROOT = Path(__file__).resolve().parents[2]

Jpeg = Callable[..., bytes]


# --- MVSA-Single


def raw_mvsa(root: Path, jpeg: Jpeg, count: int = 20) -> Path:
    """The raw layout: labels in turn, the last two pairs are no agreement."""
    (root / 'data').mkdir(parents=True)
    lines = ['ID\ttext,image']
    for i in range(count):
        label = ('positive', 'negative', 'neutral')[i % 3]
        lines.append(f'{i}\t{label},{label}')
        (root / 'data' / f'{i}.jpg').write_bytes(jpeg(i))
        (root / 'data' / f'{i}.txt').write_bytes(f'tweet {i}\r\n'.encode())
    lines[-2:] = [f'{count - 2}\tpositive,negative', f'{count - 1}\tneutral,negative']
    (root / 'labelResultAll.txt').write_text('\n'.join(lines) + '\n')
    return root


def test_mvsa_raw_layout(tmp_path: Path, jpeg: Jpeg) -> None:
    raw = raw_mvsa(tmp_path / 'raw', jpeg)
    report = mvsa_single.make_mvsa_single(raw, tmp_path / 'out')
    assert report.counts == {'train': 11, 'val': 4, 'test': 3}
    assert report.bad == []
    ids = set()
    for split in report.counts:
        for row in load_from_disk(str(tmp_path / 'out' / split)):
            i = int(row['sample_id'])
            ids.add(i)
            assert row['label'] == i % 3
            assert row['text'] == f'tweet {i}'
            assert row['image'] == jpeg(i), 'the file as it was found'
    assert ids == set(range(18))
    manifest = read_manifest(tmp_path / 'out')
    assert manifest['classes'] == ['positive', 'negative', 'neutral']
    assert manifest['facts']['text_encodings'] == {'utf-8': 18}

    classic = mvsa_single.make_mvsa_single(raw, tmp_path / 'classic', rule='classic')
    assert sum(classic.counts.values()) == 19

    assert mvsa_single.make_mvsa_single(raw, tmp_path / 'again').digest == report.digest
    other = mvsa_single.make_mvsa_single(raw, tmp_path / 'other', seed=1)
    assert other.digest != report.digest


def test_mvsa_counts_what_occurs_twice(tmp_path: Path, jpeg: Jpeg) -> None:
    raw = raw_mvsa(tmp_path / 'raw', jpeg)
    report = mvsa_single.make_mvsa_single(raw, tmp_path / 'out')
    none = dict(groups_of_equal=0, in_several_splits=0, test_pairs_also_in_train=0)
    facts = read_manifest(tmp_path / 'out')['facts']['checks']['duplicates']
    assert facts == dict(text=none, image=none)
    ids = {
        s: load_from_disk(str(tmp_path / 'out' / s))['sample_id'] for s in ('train', 'val', 'test')
    }
    data = raw / 'data'
    (data / f'{ids["train"][0]}.txt').write_text('The same')
    for name in ids['test'][:2]:
        (data / f'{name}.txt').write_text(' the same ')
    (data / f'{ids["val"][0]}.jpg').write_bytes((data / f'{ids["train"][1]}.jpg').read_bytes())
    mvsa_single.make_mvsa_single(raw, tmp_path / 'again')
    facts = read_manifest(tmp_path / 'again')['facts']['checks']['duplicates']
    assert facts['text'] == {
        'groups_of_equal': 1,
        'in_several_splits': 1,
        'test_pairs_also_in_train': 2,
    }
    assert facts['image'] == {**none, 'groups_of_equal': 1, 'in_several_splits': 1}
    assert report.bad == []


def test_mvsa_bad_files(tmp_path: Path, jpeg: Jpeg, capsys: pytest.CaptureFixture) -> None:
    raw = raw_mvsa(tmp_path / 'raw', jpeg)
    (raw / 'data' / '0.jpg').unlink()
    (raw / 'data' / '1.jpg').write_bytes(jpeg(1, side=64)[:700])
    (raw / 'data' / '2.jpg').write_text('<html>not found</html>')
    (raw / 'data' / '3.txt').unlink()
    (raw / 'data' / '4.jpg').write_bytes(b'')
    argv = ['--raw', str(raw), '--out', str(tmp_path / 'out')]
    assert mvsa_single.main(argv) == 3
    bad = {b['sample_id']: b['reason'] for b in read_manifest(tmp_path / 'out')['bad']}
    assert set(bad) == {'0', '1', '2', '3', '4'}
    assert 'No such file' in bad['0']
    assert 'truncated' in bad['1']
    assert 'cannot identify' in bad['2']
    assert '3.txt' in bad['3']
    assert 'empty' in bad['4']
    assert 'unusable: ' in capsys.readouterr().err
    assert mvsa_single.main([*argv, '--allow-bad', '5']) == 0


def test_mvsa_split_list(tmp_path: Path, jpeg: Jpeg) -> None:
    raw = raw_mvsa(tmp_path / 'raw', jpeg)
    lists = {'train': range(10), 'test': range(10, 15)}
    entries = []
    for split, ids in lists.items():
        path = tmp_path / f'{split}.txt'
        path.write_text(''.join(f'{i}\n' for i in ids))
        entries.append(f'{split}={path}')
    report = mvsa_single.make_mvsa_single(raw, tmp_path / 'out', split_list=entries)
    assert report.counts == {'train': 9, 'val': 1, 'test': 5}
    assert load_from_disk(str(tmp_path / 'out' / 'test'))['sample_id'] == [
        str(i) for i in range(10, 15)
    ]
    (tmp_path / 'test.txt').write_text('10\n18\n')
    with pytest.raises(ValueError, match=r"id '18' is dropped by the rule \(text, image: positive"):
        mvsa_single.make_mvsa_single(raw, tmp_path / 'out2', split_list=entries)
    (tmp_path / 'test.txt').write_text('3,extra\n')
    with pytest.raises(ValueError, match=r"id '3' is listed already, in .*train.txt line 4"):
        read_split_list(entries)


def test_mvsa_errors_name_the_line(tmp_path: Path, jpeg: Jpeg) -> None:
    raw = raw_mvsa(tmp_path / 'raw', jpeg)
    table = raw / 'labelResultAll.txt'
    table.write_text('ID\ttext,image\n1\tpositive,angry\n')
    with pytest.raises(ValueError, match=r"line 2: unknown label 'angry'"):
        read_label_table(table)
    table.write_text('ID\ttext,image\n1\tpositive\n')
    with pytest.raises(ValueError, match=r'line 2: expected "ID<tab>text,image"'):
        read_label_table(table)
    with pytest.raises(FileNotFoundError, match=r'neither train\.jsonl'):
        mvsa_single.make_mvsa_single(raw / 'data', tmp_path / 'out')
    for name in ('train', 'dev', 'test'):
        (raw / f'{name}.jsonl').write_text('{"id": "1", "label": "joy", "text": "", "img": "a"}\n')
    with pytest.raises(ValueError, match=r"train.jsonl line 1: unknown label 'joy'"):
        mvsa_single.make_mvsa_single(raw, tmp_path / 'out')
    with pytest.raises(ValueError, match='--layout raw'):
        mvsa_single.make_mvsa_single(raw, tmp_path / 'out', rule='classic')


def test_joint_label_table() -> None:
    p, n, u = 'positive', 'negative', 'neutral'
    agree = {(a, b): (a if a == b else None) for a in (p, n, u) for b in (p, n, u)}
    classic = agree | {(p, u): p, (u, p): p, (n, u): n, (u, n): n}
    for pair in agree:
        assert joint_label(*pair, 'agree') == agree[pair]
        assert joint_label(*pair, 'classic') == classic[pair]


def test_mvsa_rules_on_the_real_table(shared: Path) -> None:
    table = read_label_table(shared / 'mvsa_single' / 'labelResultAll.txt')
    assert len(table) == 4869
    counts = Counter(joint_label(*pair, 'agree') for pair in table.values())
    assert counts == {None: 2277, 'positive': 1398, 'negative': 724, 'neutral': 470}
    kept = [joint_label(*pair, 'classic') for pair in table.values()]
    assert sum(label is not None for label in kept) == 4511


@pytest.mark.slow
def test_mvsa_published_split(shared: Path, tmp_path: Path) -> None:
    report = mvsa_single.make_mvsa_single(shared / 'mvsa_single', tmp_path / 'out')
    assert report.counts == {'train': 1555, 'val': 518, 'test': 519}
    assert report.bad == []
    splits = read_manifest(tmp_path / 'out')['splits']
    assert list(splits['train']['per_class'].values()) == [851, 422, 282]
    assert list(splits['val']['per_class'].values()) == [282, 141, 95]
    assert list(splits['test']['per_class'].values()) == [265, 161, 93]
    lines = (shared / 'mvsa_single' / 'dev.jsonl').read_text(encoding='utf-8').split('\n')
    wanted = [json.loads(line) for line in lines if line]
    rows = load_from_disk(str(tmp_path / 'out' / 'val'))
    assert rows['sample_id'] == [w['id'] for w in wanted]
    assert rows['text'] == [w['text'] for w in wanted]


@pytest.mark.parametrize(
    ('data', 'text', 'encoding', 'replaced'),
    [
        ('naïve ☃'.encode(), 'naïve ☃', 'utf-8', 0),
        ('\ufeffmark'.encode(), 'mark', 'utf-8', 0),
        ('café au lait'.encode('latin-1'), 'café au lait', 'cp1252', 0),
        ('cafés'.encode('latin-1'), 'cafés', 'cp1252', 0),
        ('天气很好 http'.encode('gb18030'), '天气很好 http', 'gb18030', 0),
        ('more…'.encode('gb18030'), 'more…', 'gb18030', 0),
        ('smile 😀!'.encode('gb18030'), 'smile 😀!', 'gb18030', 0),
        (b'one \x81 two', 'one \ufffd two', 'cp1252', 1),
        ('wide'.encode('utf-16'), 'wide', 'utf-16', 0),
    ],
)
def test_text_encodings(data: bytes, text: str, encoding: str, replaced: int) -> None:
    decoded = decode_text(data)
    assert (decoded.text, decoded.encoding, decoded.replaced) == (text, encoding, replaced)


# --- splits


def test_stratified_splits_keep_the_shares() -> None:
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    rng = np.random.default_rng(0)
    splits = stratified_splits(labels, dict(train=60, val=20, test=20), rng)
    assert sorted(np.concatenate(list(splits.values()))) == list(range(100))
    assert np.bincount(labels[splits['train']]).tolist() == [42, 12, 6]
    assert np.bincount(labels[splits['test']]).tolist() == [14, 4, 2]
    with pytest.raises(ValueError, match='cannot draw 100 of 100'):
        stratified_choice(labels, 100, rng)


# --- UCI


def fake_uci(path: Path, count: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (('train', count), ('test', count // 2)):
        for i, view in enumerate(uci_digits.VIEWS):
            arrays[f'{view}_{part}'] = rng.normal(i, 2, (n, i + 2)).astype(np.float32)
        arrays[f'y_{part}'] = (np.arange(n) % 10 + 1).astype(np.uint8)
    np.savez(path, **arrays)
    return arrays


def test_uci_views(tmp_path: Path) -> None:
    arrays = fake_uci(tmp_path / uci_digits.FILE)
    report = uci_digits.make_uci_digits(tmp_path, tmp_path / 'out', num_val=10)
    assert report.counts == {'train': 30, 'val': 10, 'test': 20}
    manifest = read_manifest(tmp_path / 'out')
    assert set(manifest['splits']['val']['per_class'].values()) == {1}
    train = load_from_disk(str(tmp_path / 'out' / 'train'))
    for row in train:
        part, _, number = row['sample_id'].partition('-')
        np.testing.assert_array_equal(np.float32(row['fac']), arrays[f'fac_{part}'][int(number)])
        assert row['label'] == int(number) % 10
    facts = manifest['modalities']['fac']
    np.testing.assert_allclose(facts['mean'], np.mean(train['fac'], axis=0), rtol=1e-6)
    np.testing.assert_allclose(facts['std'], np.std(train['fac'], axis=0), rtol=1e-6)


def test_uci_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'handwritten_6views\.npz is missing'):
        uci_digits.make_uci_digits(tmp_path, tmp_path / 'out')
    path = tmp_path / uci_digits.FILE
    arrays = fake_uci(path)
    del arrays['zer_test']
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match='lacks zer_test'):
        uci_digits.make_uci_digits(tmp_path, tmp_path / 'out')
    path.write_bytes(b'not a zip file')
    with pytest.raises(ValueError, match='not a readable npz'):
        uci_digits.make_uci_digits(tmp_path, tmp_path / 'out')


def test_uci_real(shared: Path, tmp_path: Path) -> None:
    report = uci_digits.make_uci_digits(shared / 'uci_digits_6view', tmp_path / 'out')
    assert report.counts == {'train': 1300, 'val': 300, 'test': 400}
    splits = read_manifest(tmp_path / 'out')['splits']
    assert set(splits['val']['per_class'].values()) == {30}


# --- synthetic


def nearest(x: np.ndarray, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class whose training mean is nearest."""
    means = np.stack([train[labels == c].mean(0) for c in np.unique(labels)])
    return np.argmin(((x[:, None] - means) ** 2).sum(-1), axis=1)


def test_synthetic_contributions_are_as_stated(tmp_path: Path) -> None:
    synthetic.make_synthetic(tmp_path / 'd', num_train=800, num_test=400, label_noise=0.1)
    train = load_from_disk(str(tmp_path / 'd' / 'train')).with_format('numpy')
    test = load_from_disk(str(tmp_path / 'd' / 'test')).with_format('numpy')
    right = {
        m: nearest(test[m][:], train[m][:], train['label'][:]) == test['label'][:] for m in 'abc'
    }
    assert right['a'].mean() > 0.99
    assert right['b'].mean() == pytest.approx(0.7, abs=0.005)
    assert right['c'].mean() < 0.35
    facts = read_manifest(tmp_path / 'd')['facts']
    assert len(facts['wrong']['test']['b']) == 120
    wrong = np.isin(test['sample_id'][:], facts['wrong']['test']['b'])
    assert (right['b'] == ~wrong).mean() > 0.99
    assert len(facts['wrong_label']['train']) == 80
    assert facts['wrong_label']['test'] == []


def test_synthetic_any_modalities_and_seeds(tmp_path: Path) -> None:
    options = dict(modalities={'only': 0.0}, dim={'only': 5}, num_classes=3)
    one = synthetic.make_synthetic(tmp_path / 'a', **options)
    assert load_from_disk(str(tmp_path / 'a' / 'val')).column_names[3:] == ['only']
    assert synthetic.make_synthetic(tmp_path / 'b', **options).digest == one.digest
    assert synthetic.make_synthetic(tmp_path / 'c', **options, seed=1).digest != one.digest
    with pytest.raises(ValueError, match='must be at least the number of classes'):
        synthetic.make_synthetic(tmp_path / 'd', dim=2)


def test_synthetic_shares_of_wrong_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['--num-train', '40', '--wrong', 'a=0.1', 'b=0.5']
    assert synthetic.main(['--out', str(tmp_path / 'd'), *arguments]) == 0
    facts = json.loads((tmp_path / 'd' / 'manifest.json').read_text(encoding='utf-8'))['facts']
    assert {m: len(v) for m, v in facts['wrong']['train'].items()} == {'a': 4, 'b': 20}
    for bad in ('b=2', 'b=x', 'd=0.1', 'b'):
        with pytest.raises(SystemExit):
            synthetic.main(['--out', str(tmp_path / 'e'), '--wrong', bad])
        assert 'a share in [0, 1], such as b=0.2' in capsys.readouterr().err


# --- both ways to start a script


@pytest.mark.parametrize('start', [['-m', 'data_prep.synthetic'], ['data_prep/synthetic.py']])
def test_started_as_module_and_as_file(tmp_path: Path, start: list[str]) -> None:
    command = [sys.executable, *start, '--out', str(tmp_path / 'd')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'written: train 200, val 100, test 100' in done.stdout
    assert verify(tmp_path / 'd') == []
