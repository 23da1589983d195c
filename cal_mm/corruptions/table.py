"""The severity table of docs/corruptions.md, made from the classes."""

from cal_mm.registry import CORRUPTIONS

from .base import Corruption
from .protocols import PROTOCOLS

__all__ = ['attack_table', 'option_table', 'protocol_table', 'severity_table']


def _classes() -> list[type[Corruption]]:
    own = (c for c in CORRUPTIONS.module_dict.values() if c.__module__.startswith('cal_mm.'))
    return sorted(own, key=lambda c: (c.kind, c.__name__))


def severity_table() -> str:
    """Markdown: each corruption with its kind, parameter, unit and values at severities 1 to 5."""
    rows = [
        '| corruption | short names | kind | parameter | unit | 1 | 2 | 3 | 4 | 5 |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for cls in (c for c in _classes() if c.sample_wise):
        rows.append(
            f'| `{cls.__name__}` | {", ".join(cls.aliases)} | {cls.kind} | `{cls.parameter}` '
            f'| {cls.unit} | {_values(cls)} |'
        )
    return '\n'.join(rows)


def attack_table() -> str:
    """Markdown: the budgets of the attacks on the model, those of one kind and norm in a row."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for cls in (c for c in _classes() if not c.sample_wise):
        norm = {'linf': 'L-inf', 'l2': 'L2'}[getattr(cls, 'norm', '')]
        key = cls.kind, norm, cls.parameter, cls.unit, _values(cls)
        groups.setdefault(key, []).append(f'`{cls.__name__}`')
    rows = [
        '| kind | norm | attacks | parameter | unit | 1 | 2 | 3 | 4 | 5 |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for (kind, norm, parameter, unit, values), names in groups.items():
        rows.append(f'| {kind} | {norm} | {", ".join(names)} | `{parameter}` | {unit} | {values} |')
    return '\n'.join(rows)


def _values(cls: type[Corruption]) -> str:
    return ' | '.join(f'{v:.3g}' for v in cls.levels)


def option_table() -> str:
    """Markdown: each option with its default, the words it may be, and the fact that fills it."""
    rows = [
        '| corruption | option | default | one of | from the manifest |',
        '|---|---|---|---|---|',
    ]
    for cls in (c for c in _classes() if c.sample_wise):
        for key, default in cls.options.items():
            fact = cls.fact_keys.get(key, key)
            filled = f'`{fact}`' if key in cls.fact_keys or key == 'sample_rate' else ''
            rows.append(
                f'| `{cls.__name__}` | `{key}` | `{default!r}` '
                f'| {", ".join(cls.choices.get(key, ()))} | {filled} |'
            )
    return '\n'.join(rows)


def protocol_table() -> str:
    """Markdown: each protocol with its version, default number of noise seeds and definition."""
    rows = ['| protocol | version | noise seeds | definition |', '|---|---|---|---|']
    rows += [f'| `{p.name}` | {p.version} | {p.seeds} | {p.summary} |' for p in PROTOCOLS.values()]
    return '\n'.join(rows)
