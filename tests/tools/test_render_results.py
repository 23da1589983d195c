"""tools/render_results.py: numbers of the pages."""

import pytest
from cli_runner import ROOT, call, load_tool

HEAD = (
    'dataset,training,method,title,column,accuracy_mean,accuracy_std,ece_mean,train_ratio,'
    'reference,reference_minus,p_holm'
)
ROWS = """
d,clean,cal,CAL,clean,80.04,1.26,3.33,1.52,,,
d,clean,concat,concat,clean,75.55,1.0,4.0,1.0,cal,4.49,0.001
d,clean,single:a,alone: a,clean,81.0,1.0,4.0,,cal,-0.96,0.3
d,clean,late,late,clean,82.06,1.0,4.0,,cal,-2.02,0.04
"""


@pytest.fixture
def results(tmp_path):
    (tmp_path / 'page.csv').write_text(HEAD + ROWS)
    return load_tool('render_results').Results(tmp_path)


def page(results, template):
    (results.folder / 'x.md.j2').write_text(template)
    text = 'before\n<!-- x.md.j2: begin -->\nold\n<!-- x.md.j2: end -->\nafter\n'
    return results.rendered(text)


def test_numbers_marks_and_names(results):
    got = page(
        results,
        "{{ acc('page', 'd', 'clean', 'cal') }} {{ acc('page', 'd', 'clean', 'cal', std=True) }}\n"
        "{{ acc('page', 'd', 'clean', 'concat', mark=True) }}\n"
        "{{ acc('page', 'd', 'clean', 'late', mark=True) }}\n"
        "{{ acc('page', 'd', 'clean', 'single:a', mark=True) }}\n"
        "{{ best('page', 'd', 'clean') }}; {{ best('page', 'd', 'clean', but=['late']) }}\n"
        "{{ minus('page', 'd', 'clean', 'concat') }} {{ minus('page', 'd', 'clean', 'late') }}\n"
        "{{ ece('page', 'd', 'clean', 'cal') }} {{ cost('page', 'd', 'clean', 'cal') }}\n"
        "{% if has('page', 'd', 'clean', 'agm') %}agm{% else %}-{% endif %}\n",
    )
    assert got == (
        'before\n<!-- x.md.j2: begin -->\n'
        '80.0 80.0 ± 1.3\n75.5 \\*\n82.1 †\n81.0\nlate 82.1 †; a alone 81.0\n'
        '+4.5 \\* -2.0 †\n3.3 1.5\n-'
        '<!-- x.md.j2: end -->\nafter\n'
    )
    assert results.rendered(got) == got


def test_a_pattern_finds_the_page_with_the_panel(results):
    (results.folder / 'page_more.csv').write_text(HEAD + ROWS.replace('d,clean', 'd,noise'))
    template = "{{ acc('page*', 'd', 'clean', 'cal') }} {{ best('page*', 'd', 'noise') }}"
    assert '80.0 late 82.1 †' in page(results, template)


def test_a_panel_stands_on_one_page_only(results):
    (results.folder / 'page_more.csv').write_text(HEAD + ROWS)
    with pytest.raises(ValueError, match=r'd@clean must be in exactly one of page, page_more'):
        page(results, "{{ acc('page*', 'd', 'clean', 'cal') }}")


@pytest.mark.parametrize(
    ('template', 'message'),
    [
        ("{{ acc('pa*', 'e', 'clean', 'cal') }}", 'e@clean must be in .* it is in none'),
        ("{{ acc('page', 'd', 'clean', 'agm') }}", r"no 'agm'; there is cal, concat, single:a"),
        ("{{ acc('page', 'e', 'clean', 'cal') }}", "nothing for e@clean, column 'clean'"),
        ("{{ acc('pag', 'd', 'clean', 'cal') }}", r'there is no .*pag\.csv'),
        ("{{ cost('page', 'd', 'clean', 'late') }}", "no train_ratio of 'late' for d@clean"),
        ("{{ minus('page', 'd', 'clean', 'cal') }}", "compares 'cal' of d@clean with nothing"),
        ("{{ best('page', 'd', 'noise') }}", 'd@noise has no rivals'),
        ('{{ unknown }}', r"x\.md\.j2: 'unknown' is undefined"),
    ],
)
def test_what_is_not_there_is_named(results, template, message):
    with pytest.raises(ValueError, match=message):
        page(results, template)


def test_blocks_without_template_or_end(results):
    with pytest.raises(ValueError, match=r'there is no .*y\.md\.j2'):
        results.rendered('<!-- y.md.j2: begin -->\n<!-- y.md.j2: end -->\n')
    with pytest.raises(ValueError, match=r"no line '<!-- y\.md\.j2: end -->'"):
        results.rendered('<!-- y.md.j2: begin -->\n')


def test_pages_of_this_repository_are_up_to_date():
    assert '<!-- readme.md.j2: begin -->' in (ROOT / 'README.md').read_text(encoding='utf-8')
    code, out, err = call('render_results', '--check')
    assert (code, err, out.strip()) == (0, '', 'up to date')


def test_where_the_reference_is_worse(results):
    (results.folder / 'page_more.csv').write_text(
        HEAD + ROWS.replace('d,clean', 'e,noise').replace('0.04', '0.06')
    )
    row = 'd,clean,agm,AGM,clean,83.06,1.0,4.0,,cal,-3.02,0.01\n'
    with (results.folder / 'page.csv').open('a') as file:
        file.write(row)
    template = (
        "{% for x in lost('page*') %}{{ x.dataset }}@{{ x.training }} {{ x.column }}: "
        '{{ x.own }}, {{ x.title }} {{ x.theirs }}{% endfor %}\n'
        "{{ lost('page*', but=['agm'])[0].title }} "
        "{{ lost('page*', but=['agm', 'late']) }}"
    )
    assert '\nd@clean clean: 80.0, AGM 83.1late []<' in page(results, template)
