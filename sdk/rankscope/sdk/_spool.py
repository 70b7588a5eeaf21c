"""Where journals lie: the spool, one folder a session, and the locks that say who lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

WRITER = "writer.lock"  # held by the rank as long as it writes
SENDER = "sender.lock"  # held by whoever delivers
HELLO = "hello.json"
SHAPES = "shapes"
SEGMENTS = ".seg"

# A mapped page whose block cannot be had is a SIGBUS that kills the training. Only file systems where an allocated
# block stays allocated are mapped; NFS, Lustre, GPFS, FUSE and whatever else is not listed here is appended to. So is
# btrfs: it writes a page to a new block each time, and there is none on a full disk.
_MAPPABLE = {"ext2", "ext3", "ext4", "xfs", "tmpfs", "f2fs"}


def default_spool() -> Path:
    """RANKSCOPE_SPOOL, else a folder of this user's own on the local disk that survives a reboot."""
    return Path(os.environ.get("RANKSCOPE_SPOOL") or f"/var/tmp/rankscope-{os.geteuid()}")


def open_spool(spool: Path) -> Path:
    """Create the spool or check that it is ours. Raises OSError with what to do."""
    spool = spool.absolute()  # the process may go elsewhere, and its sender does
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = spool.lstat()
    if stat.S_ISLNK(found.st_mode):
        spool = spool.resolve()
        found = spool.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{spool} is no folder: set RANKSCOPE_SPOOL to another one")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{spool} belongs to user {found.st_uid}: set RANKSCOPE_SPOOL to a folder of your own")
    if found.st_mode & 0o022:
        raise PermissionError(f"{spool} can be written by others: chmod 700 it or set RANKSCOPE_SPOOL")
    return spool


def file_system(path: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that holds `path`, "" where that is not known."""
    real = os.path.realpath(path)
    best, kind = -1, ""
    try:
        text = mounts if mounts is not None else Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = point == "/" or real == point or real.startswith(point + "/")
        if inside and len(point) >= best:
            best, kind = len(point), right.split()[0]
    return kind


def mappable(path: Path) -> bool:
    """True where files may be memory-mapped without a danger to the process."""
    kind = file_system(path)
    # What an overlay lies on cannot be seen from inside a container, but for one thing: btrfs counts no inodes.
    return kind in _MAPPABLE or (kind == "overlay" and os.statvfs(path).f_files > 0)


def lock(path: Path, make: bool = False) -> int | None:
    """Take a lock and return its descriptor, None when someone else holds it. Raises OSError.

    `make`: in a new folder. Elsewhere a file that is not there is one that someone else is removing with its folder,
    and a new one would keep the folder. POSIX locks belong to a process: a fork does not inherit them, and the kernel
    lets go of them when it dies. Closing any descriptor of the file in this process gives the lock up, so open a lock
    file only through here.
    """
    file = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0) | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except PermissionError:  # EACCES: some file systems say so where another process holds the lock
        os.close(file)
        return None
    except OSError:
        os.close(file)
        raise
    return file


def journals(spool: Path) -> Iterator[Path]:
    """Yield the folders of sessions in a spool, oldest first."""
    found: list[tuple[float, str]] = []
    try:
        with os.scandir(spool) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # delivered and removed meanwhile
                    if _is_journal(entry):
                        found.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
    except OSError:
        return
    for _, path in sorted(found):
        yield Path(path)


def _is_journal(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and os.path.exists(os.path.join(entry.path, HELLO))


def is_remnant(folder: Path) -> bool:
    """True for a folder that is named as those of sessions are, and is none."""
    name = folder.name
    named = len(name) == 16 and all(digit in "0123456789abcdef" for digit in name)
    return named and not folder.is_symlink() and folder.is_dir() and not (folder / HELLO).exists()


def segments(folder: Path) -> list[tuple[int, Path]]:
    """Return the segments of a journal with the sequence of their first record, in order."""
    found: list[tuple[int, Path]] = []
    for name in os.listdir(folder):
        if name.endswith(SEGMENTS):
            try:
                found.append((int(name[: -len(SEGMENTS)], 16), folder / name))
            except ValueError:
                continue
    return sorted(found)


def segment_name(first: int) -> str:
    return f"{first:016x}{SEGMENTS}"
