from pathlib import Path

import torch

from cal_mm.corruptions import parse_attack
from cal_mm.corruptions.table import attack_table, option_table, protocol_table, severity_table
from cal_mm.registry import CORRUPTIONS

PAGE = Path(__file__).parents[2] / 'docs' / 'corruptions.md'


def test_the_tables_are_those_of_the_classes():
    text = PAGE.read_text(encoding='utf-8')
    hint = 'write docs/corruptions.md again with cal_mm.corruptions.table'
    assert severity_table() in text, hint
    assert attack_table() in text, hint
    assert option_table() in text, hint
    assert protocol_table() in text, hint


def test_the_page_s_own_corruption_works():
    code = PAGE.read_text(encoding='utf-8').split('## Your own')[1].split('```')[1]
    try:
        exec(code.removeprefix('python'), {})
        (condition,) = parse_attack('invert:5@m', {'m': 'image'})
        black = torch.zeros(3, 2, 2, dtype=torch.uint8)
        assert condition.corruptions[0].corrupt(black, None).unique().tolist() == [128]
    finally:
        CORRUPTIONS.module_dict.pop('ImageInvert', None)
