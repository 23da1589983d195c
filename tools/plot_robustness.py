"""Draw accuracy against severity from results files, several models in one figure.

python tools/plot_robustness.py cal.json concat.json --labels CAL concat --out plots/robustness

A panel per corruption and modality. --contribution draws W against severity too.
"""

import argparse

from cal_mm.cli import run
from cal_mm.visualization import plot_contribution, plot_robustness
from cal_mm.visualization.robustness import BANDS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog='tools/plot_robustness.py', description='Draw accuracy against severity.'
    )
    found.add_argument('results', nargs='+', help='files that tools/test.py --out wrote')
    found.add_argument('--labels', nargs='+', help="a name per file (default: its config's)")
    found.add_argument('--metric', default='accuracy/top1', help='which metric to draw')
    found.add_argument(
        '--band',
        choices=BANDS,
        default='interval',
        help='95 %% interval over samples where the file has it, or deviation over noise seeds',
    )
    found.add_argument(
        '--contribution',
        action='store_true',
        help='also draw the mean W of each modality, into OUT_contribution',
    )
    found.add_argument('--out', default='robustness', help='path without suffix')
    found.add_argument(
        '--formats', nargs='+', choices=['png', 'svg', 'pdf'], default=['png', 'svg']
    )
    found.add_argument('--title')
    found.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return found


def main(args: argparse.Namespace) -> None:
    """Draw and say where."""
    files = plot_robustness(
        args.results, args.out, args.labels, args.metric, args.formats, args.title, args.band
    )
    if args.contribution:
        base = files[0].with_suffix('')
        out = base.with_name(f'{base.name}_contribution.png')
        files += plot_contribution(args.results, out, args.labels, args.formats, args.title)
    for path in files:
        print(path)


if __name__ == '__main__':
    run(main, parser())
