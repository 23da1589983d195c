"""What the command lines share: plain errors instead of tracebacks, and the common arguments."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cal_mm.config import parse_option

__all__ = [
    'add_config_arguments',
    'add_debug_argument',
    'add_options_argument',
    'message_of',
    'run',
]

#: errors that are the user's to mend: printed as one message. Anything else is a bug and shows its
#: traceback.
USER_ERRORS = (ValueError, LookupError, OSError, FloatingPointError, TypeError, ImportError)

_IN_WORKER = re.compile(r'Caught (\w+) in DataLoader worker process \d+\.\n')
_PACKAGE = Path(__file__).resolve().parent


class _Options(argparse.Action):
    """``KEY=VALUE ...`` to a dictionary; a malformed one is wrong usage."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        found = dict(getattr(namespace, self.dest) or {})
        for text in values:
            try:
                key, value = parse_option(text)
            except ValueError as e:
                parser.error(f'{option_string}: {e}')
            found[key] = value
        setattr(namespace, self.dest, found)


def add_options_argument(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        metavar='KEY=VALUE',
        help='override the config: model.num_classes=5 "a.b=[1,2]"; an unknown path is refused',
    )


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """``--debug``."""
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--work-dir``, ``--cfg-options``, ``--launcher`` and ``--debug``."""
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints; default work_dirs/<config name>'
    )
    add_options_argument(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    add_debug_argument(parser)


def message_of(error: BaseException) -> str:
    """The text of ``error`` for a user, out of a worker's wrapping, with its notes."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    wrapped = _IN_WORKER.match(text)
    if wrapped:
        # the traceback as text; the last line that starts with the error's name begins its message
        starts = list(re.finditer(rf'^(?:[\w.]+\.)?{wrapped[1]}: ?', text, re.MULTILINE))
        text = text[starts[-1].end() :] if starts else text
    notes = [n for n in getattr(error, '__notes__', ()) if n not in text]
    return '\n'.join([text.strip() or type(error).__name__, *notes])


def _is_users(error: Exception) -> bool:
    """Whether ``error`` is the user's to mend.

    A RuntimeError is if cal_mm raised it on purpose, from another error, or if a worker's error
    became one because
    torch could not build it anew.
    """
    if isinstance(error, USER_ERRORS):
        return True
    if not isinstance(error, RuntimeError):
        return False
    wrapped = _IN_WORKER.match(str(error))
    if wrapped:
        return wrapped[1].endswith(('DecodeError', 'SampleError'))
    last = traceback.extract_tb(error.__traceback__)[-1]
    return error.__cause__ is not None and _PACKAGE in Path(last.filename).resolve().parents


def run(
    main: Callable[[argparse.Namespace], Any],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> None:
    """Parse, run ``main`` and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    An error that the user can mend is one message on stderr, with its cause's text; ``--debug``
    shows the traceback.
    """
    args = parser.parse_args(argv)
    if 'LOCAL_RANK' not in os.environ:
        os.environ['LOCAL_RANK'] = str(getattr(args, 'local_rank', 0))
    try:
        main(args)
    except KeyboardInterrupt:
        resumes = '; --resume goes on from the last checkpoint' if hasattr(args, 'resume') else ''
        print(f'interrupted{resumes}', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as e:
        if not _is_users(e):
            raise
        if getattr(args, 'debug', False):
            e.__suppress_context__ = False  # mmengine's call_hook hides where an error came from
            traceback.print_exception(e)
        print(f'{parser.prog}: error: {message_of(e)}', file=sys.stderr)
        sys.exit(1)
