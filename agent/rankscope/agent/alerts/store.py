"""Small state that survives `kill -9`: one JSON file, replaced as a whole."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


def replace(path: Path, content: bytes) -> None:
    """Write a file so that after a crash either the old or the new content is there. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a new or renamed entry of a folder safe. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def set_aside(path: Path, why: str) -> None:
    """Keep a file that cannot be read under another name, and say so."""
    other = path.with_name(path.name + ".unreadable")
    with contextlib.suppress(OSError):
        os.replace(path, other)
    log.error("%s cannot be read (%s): kept as %s, starting without it", path, why, other.name)
