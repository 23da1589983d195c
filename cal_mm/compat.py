"""The only place that works round a dependency. Each entry names its issue and when it can go.

Call ``setup()`` once before a Runner is built; the tools do.
"""

import collections
import datetime
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from cal_mm.files import write_atomically

__all__ = [
    'AtomicLocalBackend',
    'init_distributed',
    'latest_checkpoint',
    'load_trusted_types',
    'register_atomic_backend',
    'register_checkpoint_loader',
    'setup',
]


def _history_method(owner: Any, name: str) -> Any:
    """Stands in for ``getattr`` in a checkpoint, which HistoryBuffer alone may use."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise ValueError(f'a checkpoint may not look up {name!r} of {owner!r}')
    return getattr(owner, name)


def _safe_types() -> list[Any]:
    """What an mmengine training checkpoint holds besides tensors and plain containers."""
    scalar_types = [
        type(np.dtype(t)) for t in (np.float64, np.float32, np.int64, np.int32, np.bool_)
    ]
    return [
        HistoryBuffer,
        collections.OrderedDict,
        collections.defaultdict,
        np.ndarray,
        np.dtype,
        *scalar_types,
        np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        np._core.multiarray.scalar,  # type: ignore[attr-defined]
        (_history_method, 'builtins.getattr'),
    ]


def load_trusted_types(filename: str, map_location: Any = None) -> Any:
    """``torch.load`` that runs no code of the file: tensors, containers, mmengine's log buffers.

    torch >= 2.6 loads with ``weights_only=True`` and so refuses mmengine's own checkpoints
    (mmengine#1655). Until mmengine registers its types, this allows just those.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, not a checkpoint, or holds other types.
    """
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'no checkpoint at {filename!r}')
    try:
        with torch.serialization.safe_globals(_safe_types()):
            return torch.load(filename, map_location=map_location, weights_only=True)
    except Exception as e:
        reason = str(e).partition('\n')[0]
        raise ValueError(
            f'{filename}: not a readable checkpoint ({type(e).__name__}: {reason}). It is '
            f'truncated, not written by torch.save, or holds Python objects other than tensors '
            f'and plain values. Take an earlier epoch_*.pth of the same folder, or save it again '
            f'as {{"state_dict": ..., "meta": ...}}.'
        ) from e


def register_checkpoint_loader() -> None:
    """Make mmengine load local files through ``load_trusted_types``. Goes with mmengine#1655."""

    def load_local(filename: str, map_location: Any = None, logger: Any = None) -> Any:
        return load_trusted_types(os.path.expanduser(filename), map_location)

    CheckpointLoader.register_scheme(prefixes='', loader=load_local, force=True)


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written beside their place and renamed into it.

    mmengine writes checkpoints in place, so that a kill while saving leaves half a file under the
    name of a good one. Goes when mmengine's backend does this itself.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; afterwards the old or the new content is there, never a part."""
        write_atomically(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """The same for text."""
        self.put(obj.encode(encoding), filepath)


def register_atomic_backend() -> None:
    """Make mmengine write checkpoints and other local files atomically."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint to resume from in ``work_dir``; None if there is none.

    ``last_checkpoint`` names it. Where that file is empty (a kill while writing: mmengine does not
    write it atomically) or the folder was moved, the file of that name in ``work_dir`` counts,
    else the newest ``epoch_*.pth`` or ``iter_*.pth``.
    """
    folder = Path(work_dir)
    try:
        named = (folder / 'last_checkpoint').read_text(encoding='utf-8').strip()
    except FileNotFoundError:
        named = ''
    for path in (Path(named), folder / Path(named).name) if named else ():
        if path.is_file():
            return str(path)
    found = [
        (int(m[1]), p)
        for p in folder.glob('*.pth')
        if (m := re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', p.name))
    ]
    return str(max(found)[1]) if found else None


#: seconds that ranks wait for each other, unless env_cfg.dist_cfg.timeout says; what the first rank
#: does alone (pilots, teachers, encoding) takes longer than torch's minutes
TIMEOUT = 24 * 3600


def init_distributed(cfg: Config, launcher: str) -> None:
    """Make ``launcher='pytorch'`` work on a machine without an accelerator (gloo).

    mmengine 0.10 sets a CUDA device in ``init_dist`` and wraps the model with ``device_ids``. Goes
    when it accepts CPU. With or without an accelerator, ranks wait ``TIMEOUT`` for each other where
    the config gives no ``env_cfg.dist_cfg.timeout``.

    Args:
        cfg: gets the timeout and, without an accelerator, a ``model_wrapper_cfg`` without device
            ids.
        launcher: ``none``, ``pytorch`` or ``slurm``.

    Raises:
        ValueError: started without torchrun, slurm without a GPU, or a timeout that is none.
    """
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise ValueError(
            '--launcher pytorch needs torchrun: '
            'torchrun --nproc_per_node=2 tools/train.py CONFIG --launcher pytorch'
        )
    if launcher == 'none':
        return
    timeout = _set_timeout(cfg)
    if torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise ValueError(f'without a GPU only --launcher pytorch works, got {launcher!r}')
    if not dist.is_initialized():
        dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=timeout))
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)


def _set_timeout(cfg: Config) -> float:
    """Put the seconds that ranks wait for each other into ``cfg``, and return them."""
    env = cfg.get('env_cfg') or {}
    given = env.get('dist_cfg') or {}
    timeout = given.get('timeout')
    if timeout is None:
        timeout = TIMEOUT
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise ValueError(f'env_cfg.dist_cfg.timeout must be seconds > 0, got {timeout!r}')
    cfg.env_cfg = dict(env, dist_cfg=dict(given, timeout=timeout))
    return timeout


def end_distributed() -> None:
    """End a process of a distributed run that has done its work; nothing runs after this.

    Joins the ranks, so that none leaves while another still talks to it. On gloo the process then
    ends at once with status 0: the destructors of gloo's threads abort it now and then ("terminate
    called without an active exception"), and torchrun takes that for a failed run. Goes when they
    do not. Does nothing in a run of one process.
    """
    if not dist.is_initialized():
        return
    gloo = dist.get_backend() == 'gloo'
    dist.barrier()
    dist.destroy_process_group()
    if gloo:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def setup() -> None:
    """Register cal_mm's components and every work-around that a Runner needs."""
    import cal_mm.registry  # noqa: F401

    register_checkpoint_loader()
    register_atomic_backend()
