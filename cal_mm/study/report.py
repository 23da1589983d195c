"""The report of a study: Markdown with tables and figures, LaTeX and CSV beside it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cal_mm.evaluation.report import config_digest
from cal_mm.evaluation.results import sha256_of
from cal_mm.evaluation.statistics import FEW_GROUPS
from cal_mm.files import write_atomically

from .outcomes import Panel, load_panels
from .plan import Cell
from .plots import curves_of, plot_curves, plot_ranking
from .ranks import Ranking, rank_methods
from .run import Session
from .selection import codes_of, current_choice
from .spec import Study, StudyError
from .tables import (
    NOISED,
    Table,
    csv_text,
    panel_records,
    panel_table,
    versus_table,
    with_mean,
)
from .zoo import zoo_entries, zoo_text

__all__ = ['write_report']


def write_report(session: Session, out: str | None = None) -> str:
    """Write everything; returns the Markdown file's path.

    Args:
        session: of the study.
        out: Markdown file; the others go beside it: ``.tex``, ``.csv`` and a folder with the
            figures and the model zoo. Default: ``report.md`` in the study's folder.

    Raises:
        StudyError: nothing was tested yet, or ``out`` is no ``.md`` file.
    """
    path = Path(out) if out else session.ledger.folder / 'report.md'
    if path.suffix != '.md':
        raise StudyError(f'--out {path}: expected a file that ends in .md')
    plan, study = session.plan, session.study
    written, rows = session.ledger.choices(), session.ledger.rows()
    choices = {
        cell: choice
        for cell in plan.selections()
        if (choice := current_choice(plan, cell, written, rows)) is not None
    }
    panels = [
        with_mean(p, study.datasets[p.dataset].tests.protocols)
        for p in load_panels(plan, session.ledger, choices)
    ]
    if not panels:
        raise StudyError(f'{session.ledger.folder}: nothing was tested yet; run --phase test first')
    about = _about(session, panels, choices, path, out)
    parts = [f'# {study.title}', about, study.notes]
    latex, records = [], []
    for panel in panels:
        mine: dict[str, list[Mapping[str, Any]]] = {}
        for c in plan.cells:
            if (c.dataset, c.training) == (panel.dataset, panel.training):
                choice = choices.get(plan.selection_cell(c))
                if choice is not None:
                    mine.setdefault(c.row, []).append(choice)
        table = panel_table(panel, mine, study.statistics)
        title = _title(session, panel)
        parts += [f'## {title}', *_missing(panel), _rendered(table)]
        slug = f'{study.name}-{panel.dataset}-{panel.training}'
        latex.append(table.latex(f'{title}. {" ".join(table.notes)}', f'tab:{slug}'))
        versus = versus_table(panel, study.reference, study.statistics) if study.reference else None
        if versus is not None:
            reference = next(e.title for e in panel.entries if e.key == study.reference)
            parts += [f'{reference} minus the others:', _rendered(versus[0])]
            latex.append(versus[0].latex(f'{title}: {reference} minus.', f'tab:{slug}-minus'))
        records += panel_records(panel, versus[1] if versus else {}, study.reference)
    parts += _figures(session, panels, path)
    zoo, folder = zoo_entries(session, panels, choices), path.with_suffix('')
    parts.append(f'[Model zoo]({folder.name}/models.md): config, digests and command of every row.')
    lines = '\n'.join(json.dumps(e, sort_keys=True) for e in zoo)
    write_atomically(folder / 'models.jsonl', lines + '\n')
    write_atomically(folder / 'models.md', zoo_text(zoo, study.title, 'models.jsonl'))
    write_atomically(path.with_suffix('.tex'), '\n\n'.join(latex) + '\n')
    write_atomically(path.with_suffix('.csv'), csv_text(records))
    write_atomically(path, '\n\n'.join(p for p in parts if p) + '\n')
    return str(path)


def _title(session: Session, panel: Panel) -> str:
    spec = session.study.datasets[panel.dataset]
    condition = session.study.training[panel.training]
    return f'{spec.title or spec.name}, {condition.title or condition.name}'


def _missing(panel: Panel) -> list[str]:
    if not panel.missing:
        return []
    return [f'**Incomplete:** {panel.missing} of the planned test trials are missing or failed.']


def _rendered(table: Table) -> str:
    return '\n\n'.join([table.markdown(), *table.notes])


# ---- where it comes from -------------------------------------------------------------------------


def _about(
    session: Session,
    panels: Sequence[Panel],
    choices: Mapping[Cell, Mapping[str, Any]],
    path: Path,
    out: str | None,
) -> str:
    study, plan = session.study, session.plan
    rows = [t for p in panels for ts in p.trials.values() for t in ts]
    unique = {r['digest']: r for r in rows}
    command = ['python', 'tools/study.py', study.path]
    if session.options.only:
        command += ['--only', *session.options.only]
    if session.options.changes:
        command += ['--cfg-options', *(f'{k}={v}' for k, v in session.options.changes.items())]
    if out:
        command += ['--out', str(path)]
    names = sorted({p.dataset for p in panels})
    data = {
        name: sorted({r['data_digest'][:12] for r in unique.values() if r['dataset'] == name})
        for name in names
    }
    ran = {r['code_sha256'] for r in unique.values()}
    for choice in choices.values():
        ran |= codes_of(choice) - {''}
    codes = sorted(c[:12] for c in ran)
    software = sorted(
        {
            f'{k} {v}'
            for r in unique.values()
            for k, v in r['software'].items()
            if v != 'not installed'
        }
    )
    again, alike = _reproduced(session, unique)
    lines = [
        'Accuracy in percent, mean ± standard deviation over the training seeds '
        f'({", ".join(map(str, study.seeds))}). Written by',
        '',
        f'    {shlex.join(command)}',
        '',
        *(f'- {line}' for line in plan.budget()),
        '- significance: a difference counts when it holds over the samples (paired bootstrap, '
        f'seeds averaged, {study.statistics["resamples"]} resamples{_together(panels)}) and over '
        'the seeds (paired t-test): the larger p-value, Holm-corrected over the rivals. What is '
        'not significant is no proof that two are alike. All of it takes the chosen rates as given',
        *_noised_meaning(study, panels),
        '- step x, train x, params x: time of a training step, of a whole training with what goes '
        'before it (a pilot, calibration, validation) and number of trained parameters, relative '
        'to concat',
        f'- study {_study_digest(study)[:12]}, results '
        f'{sha256_of(session.ledger.results)[:12]}, code {", ".join(codes)}'
        + (' (**several code versions**)' if len(codes) > 1 else ''),
        '- data: ' + '; '.join(f'{name} {", ".join(d)}' for name, d in data.items()),
        f'- {", ".join(software)}',
    ]
    if again:
        lines.append(
            f'- {alike} of {again} trainings that were run twice (tuning and test, same seed) gave '
            f'the same validation accuracy'
        )
    left = [f'{d}/{m} ({why})' for d, m, why in plan.left_out]
    if left:
        lines.append(f'- left out: {", ".join(left)}')
    edges = sorted({cell.label for cell, choice in choices.items() if choice['on_edge']})
    if edges:
        lines.append(
            f'- chosen at the edge of the rates, a wider grid might be better: {", ".join(edges)}'
        )
    failed = [
        f'{cell.label}: lr {c["lr"]:g}, setting {c["setting"]}'
        for cell, choice in choices.items()
        for c in choice['candidates']
        if c['failed']
    ]
    if failed:
        lines.append(f'- candidates that failed and took no part: {"; ".join(failed)}')
    return '\n'.join(lines)


def _together(panels: Sequence[Panel]) -> str:
    found = {p.dataset: len(np.unique(p.groups)) for p in panels if p.groups is not None}
    if not found:
        return ''
    named = ', '.join(f'{name} {number}' for name, number in sorted(found.items()))
    few = f', too sure with fewer than {FEW_GROUPS}' if min(found.values()) < FEW_GROUPS else ''
    return f'; whole groups of the data drawn: {named}{few}'


def _noised_meaning(study: Study, panels: Sequence[Panel]) -> list[str]:
    """What the mean column is, and whose seeds are of several folds."""
    lines = []
    mine = [p for p in panels if NOISED in p.columns]
    if mine:
        several = any(len(study.datasets[p.dataset].tests.protocols) > 1 for p in mine)
        lines.append(
            f'- {NOISED}: mean of the columns between clean and it'
            + (', of several protocols the first only' if several else '')
        )
    folded = sorted({p.dataset for p in panels if study.datasets[p.dataset].folds > 1})
    if folded:
        lines.append(
            f'- {", ".join(folded)}: a seed is tested on one fold, so the spread is over folds '
            f'and seeds; every fold has its own rate'
        )
    return lines


def _study_digest(study: Study) -> str:
    """Of what the study asks for; its words do not count."""
    asked = {k: v for k, v in study.raw.items() if k not in ('title', 'notes', 'work_dir')}
    return config_digest(asked)


def _reproduced(session: Session, tests: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """How many tested trainings were tuning trials too, and how many of these agree."""

    def key(row: Mapping[str, Any]) -> tuple:
        names = ('dataset', 'fold', 'training', 'row', 'lr', 'setting', 'seed', 'config_sha256')
        return tuple(row[k] for k in names)

    tuned = {
        key(r): r['val']['accuracy']
        for r in session.ledger.rows().values()
        if r['status'] == 'done' and r['phase'] == 'select'
    }
    pairs = [(tuned[key(r)], r['val']['accuracy']) for r in tests.values() if key(r) in tuned]
    return len(pairs), sum(a == b for a, b in pairs)


# ---- figures -------------------------------------------------------------------------------------


def _figures(session: Session, panels: Sequence[Panel], path: Path) -> list[str]:
    folder = path.with_suffix('')
    parts = []
    curves = curves_of(session.plan, panels)
    for kind in ('samples', 'label noise'):
        mine = [c for c in curves if c.kind == kind]
        if mine:
            name = kind.replace(' ', '_')
            plot_curves(mine, folder / name)
            head = 'Fewer training samples' if kind == 'samples' else 'Wrong training labels'
            parts += [
                f'## {head}',
                f'Clean test accuracy; bands are 95 % intervals of the mean over the seeds.\n\n'
                f'![{head}]({folder.name}/{name}.png)',
            ]
    for column, head in (('clean', 'clean'), (NOISED, 'mean over the noised conditions')):
        ranked = _ranking(session, panels, column)
        if ranked is not None:
            ranking, titles = ranked
            name = f'ranks_{column.replace(" ", "_")}'
            plot_ranking(ranking, titles, folder / name)
            parts += [
                f'## Ranks, {head}',
                _ranking_text(ranking, titles, f'{folder.name}/{name}.png', session),
            ]
    return parts


def _ranking(
    session: Session, panels: Sequence[Panel], column: str
) -> tuple[Ranking, dict[str, str]] | None:
    """Ranks over dataset, training condition and seed, of the entries that all of them have."""
    use = [p for p in panels if column in p.columns]
    if not use:
        return None
    titles = {e.key: e.title for p in use for e in p.entries}
    keys = [k for k in titles if all((k, column) in p.outcomes for p in use)]
    blocks = []
    for panel in use:
        outcomes = [panel.outcomes[k, column] for k in keys]
        shared = set.intersection(*(set(o.seeds) for o in outcomes)) if outcomes else set()
        blocks += [[o.accuracy[o.seeds.index(s)] for o in outcomes] for s in sorted(shared)]
    if len(keys) < 2 or len(blocks) < 2:
        return None
    level = session.study.statistics['level']
    return rank_methods(keys, np.array(blocks), level), titles


def _ranking_text(ranking: Ranking, titles: Mapping[str, str], image: str, session: Session) -> str:
    friedman = '' if ranking.p_friedman is None else f'Friedman p = {ranking.p_friedman:.2g}; '
    lines = [
        f'![Critical-difference diagram]({image})',
        '',
        f'{friedman}{ranking.blocks} blocks (dataset, training condition, seed); bars join methods '
        f"that Nemenyi's test cannot tell apart. Seeds and conditions of one dataset are not "
        f'independent, so this overstates what is known; the tables above are what counts.',
    ]
    reference = session.study.reference
    if reference in ranking.names:
        at = ranking.names.index(reference)
        lines += ['', f'Wilcoxon, Holm-corrected over all pairs, {titles[reference]} against:', '']
        lines += ['| method | mean rank | p |', '|---|---|---|']
        for i, name in enumerate(ranking.names):
            if i != at:
                p = ranking.pairs[min(i, at), max(i, at)]
                lines.append(f'| {titles[name]} | {ranking.ranks[i]:.2f} | {p:.2g} |')
    return '\n'.join(lines)
