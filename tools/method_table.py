"""docs/methods.md, from the method files.

    python tools/method_table.py                          # prints the page
    python tools/method_table.py --out docs/methods.md --costs step.json [step.json ...]
    python tools/method_table.py --check docs/methods.md  # exit status 1 where it is not up to date

Every file of configs/_base_/methods says what its method is (``method = dict(title=..., ...)``);
``--costs`` takes what ``tools/benchmark_step.py --methods concat ... --json`` wrote. Costs that it
does not tell are those of the page that is there: of --out or --check, else of docs/methods.md.
"""

import argparse
import inspect
import json
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config

import cal_mm.engine.adaptation  # noqa: F401  (registers the adapters)
from cal_mm import cli
from cal_mm.files import write_atomically
from cal_mm.registry import ADAPTERS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'configs/_base_/methods'
PAGE = ROOT / 'docs/methods.md'
FACTS = ('title', 'acts_on', 'formula', 'source', 'modalities', 'splits', 'differences')

HEAD = """# Methods

Written by `tools/method_table.py` from `configs/_base_/methods/`; do not edit. Each method is a
composition of registered parts and runs in the same Runner: any number of modalities where its
maths allows, accumulation, several ranks, mixed precision, resume. `tests/test_methods.py` trains
every one of them. A config: `<method>/<dataset>_<encoders>_<fusion>_<method>.py`.

*Split*: whether an update is the same however its batch is split over micro-batches and ranks.
*Cost*: time of a training step over that of plain joint training, two ResNet-18, batch 8, side by
side in one run of `tools/benchmark_step.py` (processor time where the machine was busy); it
leaves out what a method does once per epoch or before training (teachers, prototypes, short
trainings), and is that of one modality's turn for ReconBoost, of one block each for AUG. Median
and quartiles of 4 to 16 rounds (16 for those with a bound: AGM, ARL, CAL, MLA, MMPareto, OGM-GE,
QMF, TMC); with 4 on a busy machine, some hundredths are chance.

| method | name | acts on | modalities | split | cost |
|---|---|---|---|---|---|
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog='method_table.py', description='docs/methods.md')
    p.add_argument('--out', type=Path, metavar='FILE', help='write the page here')
    p.add_argument('--check', type=Path, metavar='FILE', help='is this page up to date?')
    p.add_argument('--costs', type=Path, nargs='+', default=[], metavar='JSON')
    cli.add_debug_argument(p)
    return p


def methods() -> dict[str, dict[str, Any]]:
    """What each file says, by name.

    Raises:
        ValueError: a file says nothing, or not all of it.
    """
    found = {}
    for path in sorted(FOLDER.glob('*.py')):
        cfg = Config.fromfile(str(path)).to_dict()
        facts = cfg.get('method', {})
        lacking = [k for k in FACTS if not str(facts.get(k, '')).strip()]
        if lacking:
            raise ValueError(
                f'{path.relative_to(ROOT)}: its `method = dict(...)` lacks {", ".join(lacking)}'
            )
        found[path.stem] = {**facts, 'options': _options(cfg)}
    return found


def _options(cfg: dict[str, Any]) -> list[str]:
    """Types and arguments of a method's parts, as its file has them."""
    lines = []

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict):
            inner = {k: v for k, v in value.items() if k not in ('type', '_delete_')}
            plain = {k: v for k, v in inner.items() if v == {} or not isinstance(v, dict | list)}
            if 'type' in value:
                text = ', '.join(f'{k}={v!r}' for k, v in plain.items())
                lines.append(f'{name}: {value["type"]}({text})')
            elif plain:
                lines.append(f'{name}: ' + ', '.join(f'{k}={v!r}' for k, v in plain.items()))
            for key, v in inner.items():
                if isinstance(v, dict | list):
                    walk(f'{name}.{key}' if name else key, v)
        elif isinstance(value, list | tuple):
            for v in value:
                walk(name, v)

    for key, name in (
        ('method_model', ''),
        ('method_optim_wrapper', 'optim_wrapper'),
        ('method_hooks', 'custom_hooks'),
        ('method_train_dataloader', 'train_dataloader'),
    ):
        walk(name, cfg.get(key) or {})
    return lines


def costs_of(files: list[Path], page: Path) -> dict[str, str]:
    """Ratio to ``concat`` by method; those of ``page`` where the files say nothing."""
    found: dict[str, str] = {}
    row = r'^\| .*? \| `(\w+)` \|.*\| ([^|]*) \|$'
    if page.is_file():
        found.update(re.findall(row, page.read_text(encoding='utf-8'), re.M))
    for path in files:
        for part in json.loads(path.read_text())['parts']:
            if part['setup'] != 'resnet' or next(iter(part['candidates'])) != 'concat':
                continue
            for name, values in part['candidates'].items():
                low, high = values['ratio_quartiles']
                found[name] = f'{values["ratio"]:.2f} ({low:.2f} to {high:.2f})'
    return {**found, 'concat': '1'}


def _cell(text: str) -> str:
    return str(text).replace('|', r'\|')


def page_text(costs: dict[str, str]) -> str:
    """The whole page."""
    found = methods()
    rows, sections = [], []
    for name, facts in found.items():
        anchor = re.sub(r'[^\w\- ]', '', facts['title'].lower()).replace(' ', '-')
        split = 'exact' if facts['splits'].startswith('exact') else 'no'
        rows.append(
            f'| [{_cell(facts["title"])}](#{anchor}) | `{name}` | {_cell(facts["acts_on"])} | '
            f'{_cell(facts["modalities"])} | {split} | {costs.get(name, "not measured")} |'
        )
        options = '; '.join(f'`{line}`' for line in facts['options']) or 'none'
        sections.append(
            f'## {facts["title"]}\n\n'
            f'- **Formula**: {facts["formula"]}\n'
            f'- **Source**: {facts["source"]}\n'
            f'- **Split**: {facts["splits"]}\n'
            f'- **Paper, public code, ours**: {facts["differences"]}\n'
            f'- **Parts and hyper-parameters**: {options}\n'
        )
    return HEAD + '\n'.join(rows) + '\n\n' + '\n'.join(sections) + '\n' + _adapters()


def _adapters() -> str:
    """The section on what acts at test time, from the classes' docstrings."""
    lines = [
        '## At test time\n',
        'With `tools/test.py --adapt NAME` any checkpoint goes on learning from the unlabelled',
        'test batches. Every condition starts again from the checkpoint, and a batch is predicted',
        'before it teaches; the figures depend on the order and the size of the batches.\n',
    ]
    for name, cls in sorted(ADAPTERS.module_dict.items()):
        text = ' '.join(inspect.cleandoc(cls.__doc__ or '').replace('\n\n', ' ').split())
        lines.append(f'- **{name}**: {text}')
    return '\n'.join(lines) + '\n'


def main(args: argparse.Namespace) -> None:
    """Print, write or check."""
    page = args.check or args.out
    text = page_text(costs_of(args.costs, page if page and page.is_file() else PAGE))
    if args.check:
        if not args.check.is_file() or args.check.read_text() != text:
            raise ValueError(
                f'{args.check} is not what the method files say: python tools/method_table.py '
                f'--out {args.check}'
            )
        print(f'{args.check} is up to date')
    elif args.out:
        write_atomically(args.out, text)
        print(f'written: {args.out}')
    else:
        print(text)


if __name__ == '__main__':
    cli.run(main, parser())
