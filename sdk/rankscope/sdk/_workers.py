"""Which processes are no ranks: what a rank forks, its DataLoader workers, and whom it starts by multiprocessing."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rankscope.sdk import _spool as spool

WORKER = "RANKSCOPE_WORKER"  # for children: the process that is no rank, and whose children are none either

_forked = False  # this process was forked from one that had a session


def forked() -> None:
    """Note that this process is the child of one that had a session."""
    global _forked
    _forked = True
    os.environ[WORKER] = str(os.getpid())


def worker() -> bool:
    """True in a process that is no rank: a fork of one, a DataLoader worker, a child that just imports the script."""
    if _forked:
        return True
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return False
    if getattr(process.current_process(), "_inheriting", False):
        return True
    parent = process.parent_process()
    if parent is None:
        return False
    data = sys.modules.get("torch.utils.data")
    if data is not None and data.get_worker_info() is not None:
        return True
    return any(os.environ.get(WORKER) == str(pid) or _writes(pid) for pid in _from(parent.pid))


def _from(pid: int | None) -> Iterator[int]:
    """Yield a process, and as long as that is one of multiprocessing's own, what started it."""
    with contextlib.suppress(OSError, ValueError):
        while pid:
            yield pid
            if b"multiprocessing" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                return
            pid = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])


def _writes(pid: int) -> bool:
    """True for a process that has a session: it has the lock of a journal open.

    The environment could not say so: a fork server keeps the one that it was started with.
    """
    place = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for file in os.listdir(place):
            with contextlib.suppress(OSError):
                if os.readlink(os.path.join(place, file)).endswith(f"/{spool.WRITER}"):
                    return True
    return False
