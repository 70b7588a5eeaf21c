"""One rank's event file: what is written to it counts from the moment its progress is on disk, and only once."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from rankscope.agent.exporters._progress import Progress, load
from rankscope.agent.exporters._records import version_record, whole
from rankscope.agent.runs.folder import make_folder, sync_folder

log = logging.getLogger("rankscope.tensorboard")


class EventFile:
    """An append-only file of records. Nothing touches the disk before `save`; all offsets are known before it.

    After a crash the file is cut to the length that its progress names, so torn records and records that were never
    acknowledged vanish, and whoever sent them sends them again.
    """

    def __init__(self, folder: Path, host: str, session: str) -> None:
        self.folder = folder
        self._pending: list[bytes] = []
        self._patches: dict[int, bytes] = {}
        self._beside: dict[str, dict[int, bytes]] = {}  # what goes into other files, by name and offset
        self._gone: set[str] = set()
        self._size = 0  # bytes pending
        self._fd: int | None = None
        self._dirty = False
        found = load(folder, host, session) if folder.is_dir() else None
        self.progress = found or self._new(host)
        self.safe = dict(self.progress.sessions)  # last sequence number on disk by session
        if found:
            self._repair()

    def _new(self, host: str) -> Progress:
        now = time.time()
        self._size = 0
        self._dirty = False
        progress = Progress(host, f"events.out.tfevents.{int(now):010d}.{host}.0")
        while (self.folder / progress.file).exists():  # somebody else's: never touched
            stem, _, number = progress.file.rpartition(".")
            progress.file = f"{stem}.{int(number) + 1}"
        self._pending.insert(0, version_record(now))
        self._size = sum(map(len, self._pending))
        self._dirty = True
        return progress

    def _repair(self) -> None:
        """Cut off what was written and never counted."""
        path = self.folder / self.progress.file
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size < self.progress.length:
            sound = 0
            if size:
                with path.open("rb") as file:
                    sound = whole(file)
            log.warning(
                "%s lost %d bytes behind our back; going on after what is left", path, self.progress.length - sound
            )
            self.progress.length, self.progress.ending = sound, -1
            if not sound:
                self.append(version_record(time.time()))
            self._dirty = True
        elif size > self.progress.length:
            self._dirty = True  # the next save cuts it

    @property
    def end(self) -> int:
        """Where the next record will begin."""
        return self.progress.length + self._size

    @property
    def changed(self) -> bool:
        return bool(self._pending or self._patches or self._beside or self._dirty)

    def append(self, record: bytes) -> None:
        self._pending.append(record)
        self._size += len(record)

    def patch(self, offset: int, record: bytes) -> None:
        """Replace a record by one of the same length."""
        self._patches[offset] = record

    def beside(self, name: str, offset: int, data: bytes) -> None:
        """Write into another file of the folder, by the same rules: it counts with the next save, or not at all."""
        self._beside.setdefault(name, {})[offset] = data

    def read_beside(self, name: str) -> bytes:
        """Return what another file of the folder holds, what is pending included. Raises OSError."""
        data = bytearray()
        path = self.folder / name
        parts = self._beside.get(name, {})
        if 0 not in parts and path.is_file():
            data += path.read_bytes()
        for offset, part in parts.items():
            data[offset : offset + len(part)] = part
        return bytes(data)

    def drop_beside(self, name: str) -> None:
        """Remove another file of the folder after the next save."""
        self._beside.pop(name, None)
        self._gone.add(name)

    def mark(self) -> Callable[[], None]:
        """Return what takes back all that comes from here on until the next save: for what fails half-way."""
        progress, count, size = self.progress, len(self._pending), self._size
        patches, gone, dirty = dict(self._patches), set(self._gone), self._dirty
        beside = {name: dict(parts) for name, parts in self._beside.items()}
        pieces = {key: dict(piece) for key, piece in progress.pieces.items()}
        ending, sessions = progress.ending, dict(progress.sessions)

        def back() -> None:
            del self._pending[count:]
            self._size, self._patches, self._gone, self._beside, self._dirty = size, patches, gone, beside, dirty
            progress.pieces, progress.ending, progress.sessions = pieces, ending, sessions

        return back

    def touch(self) -> None:
        """The progress changed, though no record did."""
        self._dirty = True

    def save(self) -> None:
        """Write what is pending, then the progress. Raises OSError; the next call then tries all of it again."""
        if not self.changed:
            return
        fd = self._open()
        before = self.progress.length
        if os.fstat(fd).st_size > before:
            os.ftruncate(fd, before)
        data = b"".join(self._pending)
        self._pending = [data]
        self._dirty = True
        _write_at(fd, before, data)
        for offset, record in self._patches.items():
            _write_at(fd, offset, record)
        if data or self._patches:
            os.fdatasync(fd)
        for name, parts in self._beside.items():
            _write_file(self.folder / name, parts)
        self.progress.length = before + len(data)
        try:
            self.progress.save(self.folder)
        except OSError:
            self.progress.length = before
            raise
        self.safe = dict(self.progress.sessions)
        self._pending.clear()
        self._patches.clear()
        self._beside.clear()
        self._size = 0
        self._dirty = False
        for name in self._gone:
            (self.folder / name).unlink(missing_ok=True)
        self._gone.clear()

    def _open(self) -> int:
        if self._fd is not None and os.fstat(self._fd).st_nlink == 0:
            log.warning("%s was deleted; going on in a new file", self.folder / self.progress.file)
            self.close()
            old = self.progress
            self._patches.clear()
            self.progress = self._new(old.host)
            self.progress.sessions, self.progress.newest, self.progress.pieces = old.sessions, old.newest, old.pieces
        if self._fd is None:
            make_folder(self.folder)
            if self.progress.length == 0:  # name the file before it exists: a file without progress is not ours
                Progress(self.progress.host, self.progress.file, sessions=dict(self.safe)).save(self.folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self.folder / self.progress.file, flags, 0o644)
        return self._fd

    def close(self) -> None:
        """Close the descriptor; the next save opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _write_file(path: Path, parts: dict[int, bytes]) -> None:
    """Write parts of a file at their offsets and make them safe. Raises OSError."""
    make_folder(path.parent)
    if path.parent.is_symlink():
        raise OSError(f"{path.parent} is a link: remove it")
    new = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        if 0 in parts:
            os.ftruncate(fd, 0)
        for offset, data in parts.items():
            _write_at(fd, offset, data)
        os.fdatasync(fd)
    finally:
        os.close(fd)
    if new:
        sync_folder(path.parent)


def _write_at(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        offset += done
        view = view[done:]
