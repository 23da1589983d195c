"""Is one model really better than another? A paired test of two results files.

python tools/compare.py concat.json cal.json --labels concat CAL --metric accuracy/top1 nll

Both were written by tools/test.py --out FILE --save-predictions on the same data and noise. Under
each condition: difference, bootstrap interval, exact McNemar test (accuracy), p-values corrected
by Holm over the conditions, and in words what is and what is not significant. Several models in
one table, without tests: tools/compare_table.py.
"""

import argparse
from pathlib import Path

from cal_mm.cli import add_debug_argument, run
from cal_mm.evaluation.paired import compare_pairs, plain_summary
from cal_mm.evaluation.paired_format import FORMATS, comparison_text
from cal_mm.evaluation.pairs import load_run, pair_conditions
from cal_mm.evaluation.resampled import RESAMPLED_METRICS
from cal_mm.files import write_atomically
from cal_mm.visualization.robustness import model_names

_SUFFIXES = {'.md': 'markdown', '.csv': 'csv', '.json': 'json'}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog='tools/compare.py', description='Paired comparison of two results files.'
    )
    found.add_argument('first', help='results of the baseline')
    found.add_argument('second', help='results of the model that is compared with it')
    found.add_argument('--labels', nargs=2, help="a name per file (default: its config's)")
    found.add_argument(
        '--metric',
        nargs='+',
        default=['accuracy/top1'],
        metavar='NAME',
        help=f'{", ".join(RESAMPLED_METRICS)} or accuracy/topK (default: accuracy/top1)',
    )
    found.add_argument(
        '--resamples',
        type=int,
        default=10_000,
        metavar='N',
        help='of the bootstrap (default: %(default)s)',
    )
    found.add_argument('--seed', type=int, default=0, help='of the bootstrap (default: 0)')
    found.add_argument(
        '--format', choices=FORMATS, help="default: by --out's suffix (.md, .csv, .json), else text"
    )
    found.add_argument('--out', metavar='FILE', help='write the comparison here')
    add_debug_argument(found)
    return found


def main(args: argparse.Namespace) -> None:
    """Compare, print, write."""
    if args.resamples < 1:
        raise ValueError(f'--resamples must be at least 1, got {args.resamples}')
    if args.seed < 0:
        raise ValueError(f'--seed must be at least 0, got {args.seed}')
    if args.out and Path(args.out).is_dir():
        raise ValueError(f'--out {args.out} is a folder; give a file')
    runs = [load_run(args.first), load_run(args.second)]
    labels = args.labels or model_names([r.results for r in runs])
    pairs, notes = pair_conditions(*runs)
    metrics = list(dict.fromkeys(args.metric))
    comparisons = compare_pairs(pairs, metrics, args.resamples, args.seed)
    summary = plain_summary(comparisons, labels, args.resamples)
    suffix = Path(args.out).suffix.lower() if args.out else ''
    text = comparison_text(
        comparisons,
        labels,
        summary,
        notes,
        dict(
            first=args.first,
            second=args.second,
            resamples=args.resamples,
            seed=args.seed,
            level=0.95,
        ),
        args.format or _SUFFIXES.get(suffix, 'text'),
    )
    if not args.out:
        print(text)
        return
    write_atomically(args.out, text + '\n')
    print('\n'.join([*summary, *(f'note: {n}' for n in notes), f'comparison: {args.out}']))


if __name__ == '__main__':
    run(main, parser())
