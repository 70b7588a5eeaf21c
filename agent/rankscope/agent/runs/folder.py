"""Where a run lies on disk, and how files there are replaced as a whole."""

from __future__ import annotations

import os
from pathlib import Path

from rankscope.agent.model import RankKey


def run_folder(root: Path, project: str, run: str) -> Path:
    """Return the folder of a run. Raises OSError when it would lie outside `root`, by its name or by a link."""
    folder = root / project / run
    if not (folder.resolve().is_relative_to(root.resolve()) and len(folder.relative_to(root).parts) == 2):
        raise OSError(f"{folder} leads out of the runs folder {root}: remove the link")
    return folder


def rank_folder(root: Path, key: RankKey) -> Path:
    """Return the folder of one rank of a run. Raises OSError when it would lie outside `root`."""
    folder = run_folder(root, key.project, key.run) / f"rank_{key.rank:04d}"
    if folder.is_symlink():
        raise OSError(f"{folder} is a link: remove it")
    return folder


def replace_file(path: Path, text: str, *, sync: bool = False) -> None:
    """Replace a file so that a reader sees all of the old or all of the new. Raises OSError.

    `sync`: it also survives a crash of the machine from here on.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            if sync:
                os.fdatasync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that they survive a crash of the machine. Raises OSError."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder safe: a file that is on disk is of no use without its name. Raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
