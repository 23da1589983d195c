"""The numbers in README and docs, from what the studies wrote.

    python tools/render_results.py            # writes them into the pages
    python tools/render_results.py --check    # exit status 1 where a page is not up to date

A page has a line ``<!-- NAME.md.j2: begin -->`` and a line ``<!-- NAME.md.j2: end -->``; between
them stands ``docs/results/NAME.md.j2``, a Jinja template whose numbers come from the CSV files
beside it (``tools/study.py`` writes those with every report). Templates call

- ``acc(page, dataset, training, method, column='clean', std=False, mark=False)``: accuracy in
  percent, with the standard deviation over the seeds, with the mark of its difference,
- ``minus(page, dataset, training, method, column='clean')``: the reference minus the method, in
  points, with the mark,
- ``ece(page, dataset, training, method, column='clean')``: expected calibration error,
- ``cost(page, dataset, training, method)``: time of a whole training over that of ``concat``,
- ``best(page, dataset, training, column='clean', but=())``: name, accuracy and mark of the most
  accurate method that is neither the reference nor one of ``but``,
- ``has(page, dataset, training, method, column='clean')``: was it run?
- ``lost(page, but=())``: every cell in which the reference is significantly worse than a method
  that is not one of ``but``: dictionaries with ``dataset``, ``training``, ``column``, ``own`` (its
  accuracy), ``title`` and ``theirs``; of several methods in one column the most accurate.

``page`` is the CSV file's name without its ending; or, as ``'main*'``, a pattern for several, of
which exactly one has the dataset under that training condition. The mark is `` \\*`` where the
study's reference is significantly better than the method (p < .05 after Holm), `` †`` where it is
worse.
"""

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

from cal_mm import cli
from cal_mm.files import write_atomically
from cal_mm.study.parsing import STATISTICS

ROOT = Path(__file__).resolve().parents[1]

Row = dict[str, str]

#: the reference is significantly ...
BETTER, WORSE = ' \\*', ' †'


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog='render_results.py', description="Numbers of README and docs, from the studies' CSV."
    )
    p.add_argument('--check', action='store_true', help='only say whether they are up to date')
    cli.add_debug_argument(p)
    return p


class Results:
    """Studies' CSV files and the templates beside them.

    Args:
        folder: of both.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, list[Row]] = {}
        self._env = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        names = ('acc', 'minus', 'ece', 'cost', 'best', 'has', 'lost')
        self._env.globals.update({name: getattr(self, name) for name in names})

    def acc(
        self,
        page: str,
        dataset: str,
        training: str,
        method: str,
        column: str = 'clean',
        std: bool = False,
        mark: bool = False,
    ) -> str:
        """Accuracy in percent."""
        row = self._row(page, dataset, training, method, column)
        text = f'{float(row["accuracy_mean"]):.1f}'
        if std:
            text += f' ± {float(row["accuracy_std"]):.1f}'
        return text + (_mark(row) if mark else '')

    def minus(
        self, page: str, dataset: str, training: str, method: str, column: str = 'clean'
    ) -> str:
        """The reference minus the method, points."""
        row = self._row(page, dataset, training, method, column)
        if not row['reference_minus']:
            raise ValueError(f'{page}.csv compares {method!r} of {dataset}@{training} with nothing')
        return f'{float(row["reference_minus"]):+.1f}{_mark(row)}'

    def ece(
        self, page: str, dataset: str, training: str, method: str, column: str = 'clean'
    ) -> str:
        """Expected calibration error in percent."""
        return f'{float(self._row(page, dataset, training, method, column)["ece_mean"]):.1f}'

    def cost(self, page: str, dataset: str, training: str, method: str) -> str:
        """Time of a whole training over that of ``concat``.

        Raises:
            ValueError: it was not measured.
        """
        value = self._row(page, dataset, training, method, 'clean')['train_ratio']
        if not value:
            raise ValueError(
                f'{page}.csv has no train_ratio of {method!r} for {dataset}@{training}'
            )
        return f'{float(value):.1f}'

    def best(
        self, page: str, dataset: str, training: str, column: str = 'clean', but: Sequence[str] = ()
    ) -> str:
        """The most accurate but the reference and ``but``: name, accuracy in percent, mark."""
        panel = self._panel(page, dataset, training, column)
        rivals = [r for r in panel.values() if r['reference'] and r['method'] not in but]
        if not rivals:
            raise ValueError(f'{page}.csv: {dataset}@{training} has no rivals in {column!r}')
        row = max(rivals, key=lambda r: float(r['accuracy_mean']))
        name = re.sub(r'^alone: (.*)$', r'\1 alone', row['title'])
        return f'{name} {float(row["accuracy_mean"]):.1f}{_mark(row)}'

    def has(
        self, page: str, dataset: str, training: str, method: str, column: str = 'clean'
    ) -> bool:
        """Was the method run there?"""
        return method in self._panel(page, dataset, training, column)

    def lost(self, page: str, but: Sequence[str] = ()) -> list[dict[str, str]]:
        """Where the reference is significantly worse, in the order of the pages; see above."""
        found: dict[tuple[str, str, str], Row] = {}
        for name in sorted(path.stem for path in self.folder.glob(f'{page}.csv')):
            for row in self._rows(name):
                place = (row['dataset'], row['training'], row['column'])
                if row['method'] in but or _mark(row) != WORSE:
                    continue
                best = found.get(place)
                if best is None or float(row['accuracy_mean']) > float(best['accuracy_mean']):
                    found[place] = row
        return [
            {
                'dataset': dataset,
                'training': training,
                'column': column,
                'own': self.acc(page, dataset, training, row['reference'], column),
                'title': row['title'],
                'theirs': f'{float(row["accuracy_mean"]):.1f}',
            }
            for (dataset, training, column), row in found.items()
        ]

    def rendered(self, text: str) -> str:
        """A page's text with its blocks made anew.

        Raises:
            ValueError: a template is not there or asks for what no CSV file has, or a block has no
                end.
        """
        for name in re.findall(r'^<!-- ([\w-]+\.md\.j2): begin -->$', text, re.MULTILINE):
            begin, end = f'<!-- {name}: begin -->\n', f'<!-- {name}: end -->\n'
            head, _, rest = text.partition(begin)
            _, found, tail = rest.partition(end)
            if not found:
                raise ValueError(f'no line {end.strip()!r} after {begin.strip()!r}')
            try:
                block = self._env.get_template(name).render()
            except jinja2.TemplateNotFound as e:
                raise ValueError(f'there is no {self.folder / name}') from e
            except (jinja2.TemplateError, ValueError) as e:
                raise ValueError(f'{self.folder / name}: {e}') from e
            text = f'{head}{begin}{block}{end}{tail}'
        return text

    def _panel(self, page: str, dataset: str, training: str, column: str) -> dict[str, Row]:
        wanted = (dataset, training, column)
        rows = self._rows(self._page(page, dataset, training))
        return {
            r['method']: r for r in rows if (r['dataset'], r['training'], r['column']) == wanted
        }

    def _page(self, page: str, dataset: str, training: str) -> str:
        if '*' not in page:
            return page
        names = sorted(path.stem for path in self.folder.glob(f'{page}.csv'))
        found = [
            name
            for name in names
            if any((r['dataset'], r['training']) == (dataset, training) for r in self._rows(name))
        ]
        if len(found) != 1:
            raise ValueError(
                f'{dataset}@{training} must be in exactly one of {", ".join(names) or page}; it is '
                f'in {", ".join(found) or "none"}'
            )
        return found[0]

    def _rows(self, page: str) -> list[Row]:
        if page not in self._files:
            path = self.folder / f'{page}.csv'
            if not path.is_file():
                raise ValueError(f'there is no {path}')
            with path.open(encoding='utf-8', newline='') as file:
                self._files[page] = list(csv.DictReader(file))
        return self._files[page]

    def _row(self, page: str, dataset: str, training: str, method: str, column: str) -> Row:
        panel = self._panel(page, dataset, training, column)
        if method not in panel:
            there = ', '.join(panel) or f'nothing for {dataset}@{training}, column {column!r}'
            raise ValueError(f'{page}.csv has no {method!r}; there is {there}')
        return panel[method]


def _mark(row: Row) -> str:
    if not row['p_holm'] or float(row['p_holm']) >= 1 - STATISTICS['level']:
        return ''
    return BETTER if float(row['reference_minus']) > 0 else WORSE


def main(args: argparse.Namespace) -> None:
    """Write the pages, or check them."""
    results = Results(ROOT / 'docs/results')
    old = []
    for path in [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]:
        text = path.read_text(encoding='utf-8')
        try:
            new = results.rendered(text)
        except ValueError as e:
            raise ValueError(f'{path.relative_to(ROOT)}: {e}') from e
        if new != text:
            old.append(str(path.relative_to(ROOT)))
            if not args.check:
                write_atomically(path, new)
    if args.check and old:
        raise ValueError(f'not up to date: {", ".join(old)}; run python tools/render_results.py')
    print(f'written: {", ".join(old)}' if old else 'up to date')


if __name__ == '__main__':
    cli.run(main, parser())
