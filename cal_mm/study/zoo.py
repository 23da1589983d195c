"""The model zoo of a study: what each published row is, and how its models are had."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from cal_mm.evaluation.results import text_digest

from .outcomes import Panel
from .plan import Cell
from .run import Session

__all__ = ['zoo_entries', 'zoo_text']


def zoo_entries(
    session: Session, panels: Sequence[Panel], choices: Mapping[Cell, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One entry per dataset, training condition and method that was tested.

    An entry has ``name`` (DATASET/METHOD@TRAINING), ``title``, ``config`` (the files of
    ``configs/_base_`` it is put together from), ``options`` (of the method, beside these), ``lr``
    and ``setting`` (one per fold),
    ``config_digest`` and ``data_digest`` of the first seed, ``seeds``, ``parameters`` (trained
    ones), ``metrics`` ({gate: {column: mean accuracy in percent}}), ``results_digest`` (of all
    seeds' validation and test metrics) and ``command``, which trains it and leaves the weights.

    Args:
        session: of the study.
        panels: what was tested.
        choices: of the selection.
    """
    entries = []
    for panel in panels:
        spec = session.study.datasets[panel.dataset]
        for row in dict.fromkeys(e.row for e in panel.entries):
            mine = [e for e in panel.entries if e.row == row]
            trials = panel.trials[mine[0].key]
            if not trials:
                continue
            cells = [
                c
                for c in session.plan.cells
                if (c.dataset, c.training, c.row) == (panel.dataset, panel.training, row)
            ]
            method = session.study.methods[mine[0].method]
            chosen = [choices[session.plan.selection_cell(c)] for c in cells]
            name = f'{panel.dataset}/{row.partition(":")[0]}@{panel.training}'
            command = ['python', 'tools/study.py', session.study.path, '--only', name]
            if session.options.changes:
                changes = session.options.changes.items()
                command += ['--cfg-options', *(f'{k}={v}' for k, v in changes)]
            first = min(trials, key=lambda t: t['seed'])
            entries.append(
                {
                    'name': f'{panel.dataset}/{row}@{panel.training}',
                    'title': mine[0].title,
                    'config': [*spec.base, session.plan.builder.method_file(method)],
                    'options': {**method.options, **method.datasets.get(panel.dataset, {})},
                    'lr': [c['lr'] for c in chosen],
                    'setting': [c['setting'] for c in chosen],
                    'config_digest': first['config_sha256'],
                    'data_digest': first['data_digest'],
                    'seeds': sorted(t['seed'] for t in trials),
                    'parameters': first['parameters'],
                    'metrics': {e.gate: _means(panel, e.key) for e in mine},
                    'results_digest': _results_digest(trials),
                    'command': shlex.join([*command, '--keep-checkpoints']),
                }
            )
    return entries


def _means(panel: Panel, key: str) -> dict[str, float]:
    found = {c: panel.outcomes.get((key, c)) for c in panel.columns}
    return {c: round(o.mean, 2) for c, o in found.items() if o is not None}


def _results_digest(trials: Sequence[Mapping[str, Any]]) -> str:
    """sha256 of what all seeds reached, whatever it ran on and however long it took."""
    kept = [
        {k: t[k] for k in ('seed', 'fold', 'config_sha256', 'data_digest', 'val', 'test')}
        for t in sorted(trials, key=lambda t: t['seed'])
    ]
    return text_digest(json.dumps(kept, sort_keys=True))


def zoo_text(entries: Sequence[Mapping[str, Any]], title: str, lines: str) -> str:
    """Markdown.

    Args:
        entries: of :func:`zoo_entries`.
        title: of the study.
        lines: file name of the same entries as JSON lines.
    """
    parts = [
        f'# Model zoo: {title}',
        'What each row of the report is put together from and how its models are had: the command '
        'tunes, trains and tests it (finished trials are skipped) and leaves the weights of all '
        'seeds with their configs in `checkpoints/`, as `tools/test.py` takes them. Digests are '
        'the first 12 digits of sha256: *config* of the first seed, *results* of the metrics of '
        f'all seeds, which the same versions give again on the same kind of machine. [{lines}]'
        f'({lines}) has them in full, with the accuracy under every condition.',
        '| row | method | configs/_base_/ | lr | seeds | parameters | clean | config | data | '
        'results |\n|---|---|---|---|---|---|---|---|---|---|',
    ]
    for e in entries:
        rates = ', '.join(f'{lr:g}' for lr in dict.fromkeys(e['lr']))
        clean = ', '.join(
            f'{m["clean"]:.1f}' + ('' if gate == 'config' else f' ({gate} gate)')
            for gate, m in e['metrics'].items()
            if 'clean' in m
        )
        cells = [
            e['name'],
            e['title'],
            ', '.join(f'`{c}`' for c in e['config']),
            rates,
            str(len(e['seeds'])),
            f'{e["parameters"]:,}',
            clean,
            *(f'`{e[k][:12]}`' for k in ('config_digest', 'data_digest', 'results_digest')),
        ]
        parts[-1] += '\n| ' + ' | '.join(cells) + ' |'
    parts.append('Commands:')
    commands = '\n'.join(dict.fromkeys(str(e['command']) for e in entries))
    parts.append(f'```bash\n{commands}\n```')
    return '\n\n'.join(parts) + '\n'
