"""Loading and checking of config files: a misspelt key is an error here, never silently ignored."""

from cal_mm.registry import UnknownComponentError

from .checking import check_config
from .errors import ConfigError
from .loading import load_config
from .options import parse_option
from .places import runner_keys
from .seeds import set_seed

__all__ = [
    'ConfigError',
    'UnknownComponentError',
    'check_config',
    'load_config',
    'parse_option',
    'runner_keys',
    'set_seed',
]
