"""Studies: methods x datasets x seeds x settings from one file, tuned alike and tested once."""

from .build import ConfigBuilder, Row
from .parsing import parse_study
from .plan import Cell, Plan, Trial, make_plan
from .run import Options, Session, load_study
from .spec import Study, StudyError

__all__ = [
    'Cell',
    'ConfigBuilder',
    'Options',
    'Plan',
    'Row',
    'Session',
    'Study',
    'StudyError',
    'Trial',
    'load_study',
    'make_plan',
    'parse_study',
]
