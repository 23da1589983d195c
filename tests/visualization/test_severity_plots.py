"""Accuracy and W against severity: bands, protocols, layout, errors, the command line."""

import json

import pytest
from cli_runner import call
from results_builders import make_predictions, make_results, make_row

from cal_mm.evaluation import save_results
from cal_mm.visualization.contribution import draw_contribution
from cal_mm.visualization.panels import panel_grid
from cal_mm.visualization.robustness import draw_robustness


def noisy(attack, severity, accuracy, modality='a', seed=0, **more):
    place = dict(attack=attack, severity=severity, modalities=[modality], seed=seed)
    return make_row(f'{attack}:{severity}@{modality}', accuracy, **{**place, **more})


def model(name='one', offset=0.0, modalities=('a',), protocol='clipped', weights=True, seeds=(0,)):
    rows, predictions = [make_row(accuracy=90 + offset)], [make_predictions(0, 20)]
    for m in modalities:
        for s in (1, 2, 3):
            for seed in seeds:
                accuracy = 90 + offset - 10 * s - seed
                rows.append(noisy('g', s, accuracy, m, seed, protocol=protocol))
                predictions.append(make_predictions(s, 20))
    if weights:
        for row, p in zip(rows, predictions, strict=True):
            w = 0.5 - 0.1 * (row['severity'] or 0) * ('a' in row['modalities'])
            row['contribution'] = {'a': w, 'b': 1 - w}
            p['contribution'] = [[w, 1 - w]] * 19 + [[w + 0.02, 0.98 - w]]
    return make_results(rows, name, predictions)


def drawn(figure):
    return {ax.get_title(): ax for ax in figure.axes}


def test_bands_are_intervals_or_deviations():
    file = model(seeds=(0, 1))
    ends = [
        c['metrics']['accuracy/top1']['interval']
        for c in file['summary']['conditions']
        if c['severity'] in (None, 1)
    ]
    (ax,) = draw_robustness([file]).axes
    (band,) = ax.collections
    points = {tuple(p) for p in band.get_paths()[0].vertices.round(6).tolist()}
    assert {(x, round(v, 6)) for x, pair in zip((0, 1), ends, strict=True) for v in pair} <= points
    (ax,) = draw_robustness([file], band='seeds').axes
    (band,) = ax.collections
    heights = sorted(v for x, v in band.get_paths()[0].vertices.tolist() if x == 1)
    assert heights[0] == pytest.approx(79.5 - 0.5**0.5)
    assert heights[-1] == pytest.approx(79.5 + 0.5**0.5)
    legend = draw_robustness([file]).legends[0]
    assert legend.get_title().get_text() == 'band: 95 % bootstrap interval over samples'
    with pytest.raises(ValueError, match='band must be one of'):
        draw_robustness([file], band='std')


def test_protocols_are_not_mixed():
    one, two = model(), model('two')
    for row in two['rows'][1:]:
        row['protocol_version'] = 2
    two['rows'] += one['rows'][1:]
    titles = drawn(draw_robustness([one, two]))
    assert set(titles) == {'g on a (clipped v1)', 'g on a (clipped v2)'}
    assert len(titles['g on a (clipped v1)'].lines) == 2
    assert len(titles['g on a (clipped v2)'].lines) == 1


def test_files_that_have_nothing_in_common():
    with pytest.raises(ValueError, match=r'no corruption in common.*file 1: g@a; file 2: g@b'):
        draw_robustness([model(), model('two', modalities=('b',))])
    with pytest.raises(ValueError, match='no corruption in common'):
        draw_contribution([model(), model('two', modalities=('b',))])
    other = model('two')
    other['dataset']['digest'] = '9'
    with pytest.raises(ValueError, match=r'not of the same data.*digest one: 0, two: 9'):
        draw_robustness([model(), other])
    part = {**model('part'), 'num_samples': 7}
    for draw in (draw_robustness, draw_contribution):
        with pytest.raises(ValueError, match=r'number of samples one: 20, part: 7'):
            draw([{**model(), 'num_samples': 20}, part])
    with pytest.raises(ValueError, match=r"'f1'.*metrics of these files: accuracy/top1"):
        draw_robustness([model()], metric='f1')


@pytest.mark.parametrize(
    ('panels', 'others', 'rows', 'columns', 'axes'),
    [
        (1, 0, 1, 1, 1), (3, 1, 1, 4, 4), (4, 1, 2, 4, 5), (7, 0, 2, 4, 7), (12, 0, 3, 4, 12),
        (20, 3, 4, 6, 21), (40, 0, 7, 6, 40), (40, 9, 8, 6, 41), (1, 5, 2, 2, 2), (0, 2, 1, 1, 1),
        (0, 9, 1, 4, 1),
    ],
)  # fmt: skip
def test_layout(panels, others, rows, columns, axes):
    figure, found, last = panel_grid(panels, others)
    assert len(found) == panels
    assert (last is not None) == bool(others)
    assert len(figure.axes) == axes
    spec = figure.axes[0].get_subplotspec().get_gridspec()
    assert (spec.nrows, spec.ncols) == (rows, columns)
    places = [ax.get_subplotspec().colspan.start for ax in found]
    firsts = [ax for ax in found if ax.get_gid() == 'first of a row']
    assert len(firsts) == places.count(0)


def test_forty_panels_do_not_overlap():
    rows = [make_row()]
    for attack in ('ImageGaussianNoise', 'WaveformColouredNoise', 'TextWordShuffle', 'Blur'):
        for m in 'abcdefghij':
            rows += [noisy(attack, s, 90.0 - s, m) for s in (1, 5)]
    figure = draw_robustness([make_results(rows)])
    figure.draw_without_rendering()
    assert len(figure.axes) == 40
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


MANY = [f'model number {i}' for i in 'abcde']
LONG = ['synthetic_mlp_concat_concat', 'digits_av_small_concat_cal_noise (the_second_of_the_runs)']


@pytest.mark.parametrize('draw', [draw_robustness, draw_contribution])
@pytest.mark.parametrize('labels', [['concat', 'CAL'], LONG, MANY])
def test_nothing_is_cut_off(draw, labels):
    seeds = [(0, 1)] + [(0,)] * (len(labels) - 1)
    files = [model(seeds=s) for s in seeds]
    figure = draw(files, labels, title='What noise on one modality does to models of the digits')
    figure.draw_without_rendering()
    (legend,), (ax,) = figure.legends, figure.axes
    for artist in (legend, legend.get_title(), *legend.get_texts(), figure.texts[0]):
        box = artist.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert not legend.get_window_extent().overlaps(ax.get_tightbbox())
    assert ax.bbox.height > 0.5 * figure.dpi
    texts = [t.get_text().replace('\n', ' ') for t in legend.get_texts()]
    assert texts[-len(labels) :] == labels
    assert 'over different noise seeds:' in legend.get_title().get_text().replace('\n', ' ')


def test_contribution_lines():
    figure = draw_contribution([model(), model('two'), model('none', weights=False)])
    (ax,) = figure.axes
    assert ax.get_title() == 'g on a'
    lines = [(line.get_label(), line) for line in ax.lines]
    assert [name for name, _ in lines] == ['a', 'b', 'a', 'b']
    assert list(lines[0][1].get_xdata()) == [0, 1, 2, 3]
    assert list(lines[0][1].get_ydata()) == pytest.approx([0.5, 0.4, 0.3, 0.2])
    assert lines[0][1].get_linewidth() > lines[1][1].get_linewidth()  # the one that is hit
    assert lines[0][1].get_color() == lines[2][1].get_color()
    assert lines[0][1].get_linestyle() != lines[2][1].get_linestyle()
    assert len(ax.collections) == 4  # intervals
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ['a', 'b', 'one', 'two']
    with pytest.raises(ValueError, match='there is no W to draw'):
        draw_contribution([model(weights=False)])


def test_command_line(tmp_path):
    paths = [save_results(tmp_path / f'{n}.json', model(n)) for n in ('one', 'two')]
    common = [*paths, '--labels', 'A', 'B', '--out', tmp_path / 'v1.2']
    code, out, err = call('plot_robustness', *common, '--contribution')
    assert (code, err) == (0, '')
    names = ['v1.2.png', 'v1.2.svg', 'v1.2_contribution.png', 'v1.2_contribution.svg']
    assert out.splitlines() == [str(tmp_path / n) for n in names]
    assert all((tmp_path / n).stat().st_size > 5000 for n in names)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"format": ', 'is not valid JSON'),
        ('[1]', 'is not a results file'),
        ('{"format": "cal_mm.results", "schema_version": 9}', 'has schema_version 9'),
        (None, 'there is no results file'),
    ],
)
def test_wrong_files(tmp_path, content, message):
    path = tmp_path / 'r.json'
    if content is not None:
        path.write_text(content)
    code, _, err = call('plot_robustness', path, '--out', tmp_path / 'out')
    assert code == 1
    assert message in err
    assert 'r.json' in err
    assert not (tmp_path / 'out.png').exists()


def test_old_files_are_drawn(tmp_path):
    old = {'format': 'cal_mm.results', **model(seeds=(0, 1)), 'schema_version': 1}
    old.pop('summary')
    (tmp_path / 'r.json').write_text(json.dumps(old))
    code, _, err = call(
        'plot_robustness', tmp_path / 'r.json', '--out', tmp_path / 'o', '--contribution'
    )
    assert (code, err) == (0, '')
