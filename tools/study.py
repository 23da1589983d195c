"""Run a study: methods x datasets x seeds, tuned with equal budgets, tested once, compared.

    python tools/study.py configs/studies/smoke.py --dry-run
    python tools/study.py configs/studies/smoke.py --workers 2
    python tools/study.py configs/studies/smoke.py --phase report --out docs/results/smoke.md

What is finished is skipped, so the same command goes on after any interruption. docs/study.md
describes the file, the phases and the report. Exit status: 0 done, 1 an error or a failed trial,
2 wrong usage, 130 interrupted.
"""

import argparse
import re
import sys
from dataclasses import replace

from cal_mm.cli import add_debug_argument, add_options_argument, run
from cal_mm.study import Options, Session, StudyError, load_study

PHASES = ('select', 'test', 'report')


def devices(text: str) -> tuple[str, ...]:
    """``cpu`` or ``cuda:0,cuda:1``."""
    found = tuple(text.split(','))
    for name in found:
        if not re.fullmatch(r'cpu|cuda:\d+', name):
            raise argparse.ArgumentTypeError(f'expected cpu or cuda:N[,cuda:N ...], got {name!r}')
    return found


def count(least: int):  # type: ignore[no-untyped-def]
    """An integer of at least ``least``."""

    def parse(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f'expected an integer from {least} on, got {text!r}')
        return int(text)

    return parse


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog='tools/study.py', description=(__doc__ or '').splitlines()[0])
    p.add_argument('study', help='a file of configs/studies')
    p.add_argument('--phase', choices=(*PHASES, 'all'), default='all', help='default: all')
    p.add_argument(
        '--dry-run', action='store_true', help='print the plan and the time, run nothing'
    )
    p.add_argument(
        '--no-probe', action='store_true', help='--dry-run: do not time a short training'
    )
    p.add_argument(
        '--only',
        nargs='+',
        default=[],
        metavar='DATASET/METHOD@TRAINING',
        help='a dataset, a method of it, or */METHOD; one training condition with @',
    )
    p.add_argument('--workers', type=count(0), default=1, help='processes (0: in this one)')
    p.add_argument('--devices', type=devices, default=('cpu',), help='cpu, or cuda:0,cuda:1,...')
    p.add_argument('--threads', type=count(1), default=1, help='of each worker (default: 1)')
    p.add_argument('--work-dir', help="default: the study's, work_dirs/studies/<name>")
    p.add_argument('--out', metavar='FILE.md', help='the report; default <work-dir>/report.md')
    p.add_argument(
        '--keep-checkpoints', action='store_true', help='leave the weights of the tested trials'
    )
    p.add_argument(
        '--current-code', action='store_true', help='run trials of another code version again'
    )
    add_options_argument(p)
    add_debug_argument(p)
    return p


def main(args: argparse.Namespace) -> None:
    """Plan, run, report."""
    study = load_study(args.study, args.cfg_options)
    if args.work_dir:
        study = replace(study, work_dir=args.work_dir)
    options = Options(
        workers=args.workers,
        devices=args.devices,
        threads=args.threads,
        only=tuple(args.only),
        keep_checkpoints=args.keep_checkpoints,
        current_code=args.current_code,
        debug=args.debug,
        changes=dict(args.cfg_options or {}),
    )
    session = Session(study, options)
    if args.dry_run:
        print('\n'.join(session.describe(probe=not args.no_probe)))
        return
    phases = PHASES if args.phase == 'all' else (args.phase,)
    failed = 0
    if set(phases) & {'select', 'test'}:
        for line in session.plan.budget():
            print(line)
        failed = session.run(phases)
    if 'report' in phases:
        from cal_mm.study.report import write_report

        print(write_report(session, args.out))
    if failed:
        print(f'{failed} trials failed; the same command tries them again', file=sys.stderr)
        raise StudyError(f'{failed} trials failed')


if __name__ == '__main__':
    run(main, parser())
