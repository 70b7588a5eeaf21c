"""Removes the folders of runs that are older than they are to be kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from rankscope.agent.runs.clock import Clock

CALM = 86400.0  # seconds after a jump of the clock in which nothing is removed: time for somebody to see to it


def expired(root: Path, keep_days: float, now: float) -> Iterator[Path]:
    """Yield the run folders below `root` in which nothing was written for `keep_days` days; `now` is in Unix seconds.

    A folder counts as a run only where it holds a `run.json`: nothing else is ever touched.
    """
    for record in root.glob("*/*/run.json"):
        folder = record.parent
        if folder.is_symlink() or folder.parent.is_symlink():
            continue
        newest = max((path.stat().st_mtime for path in folder.rglob("*") if path.is_file()), default=0.0)
        if now - newest > keep_days * 86400:
            yield folder


def prune(root: Path, keep_days: float, clock: Clock) -> list[Path]:
    """Remove the expired runs; return their folders. Zero `keep_days` keeps everything. Raises OSError.

    Files were dated by the clock as it was then: while that was set lately, it may be wrong, and nothing is removed.
    """
    gone = list(expired(root, keep_days, clock.now())) if keep_days > 0 and clock.calm(CALM) else []
    for folder in gone:
        shutil.rmtree(folder)
    return gone
