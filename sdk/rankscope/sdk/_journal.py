"""The rank's own journal: what `log()` leaves behind before it returns, in segments that outlive the process."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rankscope.sdk import _records as records
from rankscope.sdk import _spool as spool
from rankscope.sdk._live import FILE as LIVE
from rankscope.sdk._live import RETRY_NS, Live, abandon

DEFAULT_BYTES = 256 << 20
_AHEAD = 16 * 1024  # bytes of a mapped segment whose pages are faulted in together
_LOOK = 4096  # bytes of records between two looks at what a call costs
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14


class Journal:
    """Appends records; not thread-safe (the session holds a lock around it).

    `buffer`, `offset`, `limit` and `sequence` are for the session's hot path: a record whose end is not beyond `limit`
    may be packed at `offset`; any other goes through `append`. On file systems that cannot be mapped `limit` stays 0.
    """

    __slots__ = (
        "_ahead",
        "_blocked_until",
        "_file",
        "_hello",
        "_lock",
        "_mapped",
        "_max",
        "_segments",
        "_shape_lines",
        "_shapes",
        "_warn",
        "buffer",
        "closed",
        "folder",
        "limit",
        "live",
        "offset",
        "sequence",
    )

    def __init__(
        self, folder: Path, live: Live, mapped: bool, warn: Callable[[str, str], None], max_bytes: int = DEFAULT_BYTES
    ) -> None:
        """Open a journal in a new folder. Never raises: where there is no room, points are dropped and counted."""
        self.folder = folder
        self.live = live
        self.buffer: mmap.mmap | bytearray = bytearray(records.SEGMENT_BYTES)
        self.offset = records.SEGMENT_BYTES  # no segment is open, or none has room
        self.limit = self._ahead = 0
        self.sequence = 0  # of the last record
        self.closed = False
        self._mapped = mapped
        self._max = max(2, max_bytes // records.SEGMENT_BYTES)
        self._warn = warn
        self._file = -1
        self._segments: list[int] = []
        self._blocked_until = 0
        self._shapes = -1
        self._shape_lines: list[bytes] = []
        self._lock: int | None = None  # of the writer, in a folder that was made again
        self._hello = b""
        with contextlib.suppress(OSError):
            self._hello = (folder / spool.HELLO).read_bytes()
        self._roll()

    def shape(self, shape: records.Shape) -> None:
        """Write down what the columns of a row are, before the first such row. Raises OSError."""
        if self.closed:
            return
        if os.fstat(self._shapes).st_nlink == 0 if self._shapes >= 0 else not self.folder.exists():
            self._roll()  # someone removed the folder: go on in a new one
        if self._shapes < 0:
            path = self.folder / spool.SHAPES
            self._shapes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        line = shape.line()
        written = os.write(self._shapes, line)
        if written != len(line):
            os.ftruncate(self._shapes, os.fstat(self._shapes).st_size - written)
            raise OSError("no room for the shape of a row")
        self._shape_lines.append(line)

    def append(self, size: int, pack: Callable[[mmap.mmap | bytearray, int], None], points: int) -> bool:
        """Write a record of `size` bytes, making room first; False when it had to be dropped."""
        if self.closed:
            return False
        if self.offset + size > records.SEGMENT_BYTES and not self._roll():
            self._drop(points)
            return False
        if not self._mapped:
            return self._write(size, pack, points)
        end = self.offset + size
        if end > self._ahead:
            self._populate(end)
        self.place(end, pack)
        return True

    def place(self, end: int, pack: Callable[[mmap.mmap | bytearray, int], None]) -> None:
        """Pack a record that ends at `end` into the mapped segment."""
        offset, sequence = self.offset, self.sequence
        try:
            pack(self.buffer, offset)
            self.offset = end
            self.sequence = sequence + 1
        except BaseException:
            self.repair(end, sequence)
            raise

    def repair(self, end: int, sequence: int) -> None:
        """After an interruption (Ctrl-C) in the middle of a write: the record exists if its mark is there."""
        if records.TAIL.unpack_from(self.buffer, end - records.TAIL.size)[0] == records.MARK:
            self.offset = end
            self.sequence = sequence + 1

    def interrupted(self) -> None:
        """Go on although a write is under way further up the stack: its record counts if it is whole."""
        if self._mapped:
            size = records.whole(self.buffer, self.offset)
        else:
            size = max(0, os.fstat(self._file).st_size - self.offset) if self._file >= 0 else 0
        if size:
            self.offset += size
            self.sequence += 1

    def event(self, kind: str, step: int, fields: Mapping[str, object], data: bytes = b"") -> bool:
        """Write an event; False when it had to be dropped. Raises ValueError when it is too large."""
        record = records.event(kind, step, time.monotonic_ns(), fields, data)

        def pack(buffer: mmap.mmap | bytearray, offset: int) -> None:
            body = len(record) - records.TAIL.size
            buffer[offset : offset + body] = record[:body]
            buffer[offset + body : offset + len(record)] = record[body:]  # the mark last

        return self.append(len(record), pack, 1)

    def close(self) -> None:
        """Let go of the files; the journal stays on disk."""
        self.closed = True
        self.limit = 0
        self.offset = records.SEGMENT_BYTES
        if isinstance(self.buffer, mmap.mmap):
            self.buffer.close()
        self.buffer = bytearray(records.SEGMENT_BYTES)
        for file in (self._file, self._shapes, -1 if self._lock is None else self._lock):
            if file >= 0:
                os.close(file)
        self._file = self._shapes = -1
        self._lock = None

    def abandon(self) -> None:
        """In a forked child: let go of mapping and files, which are the parent's."""
        abandon(self.buffer)
        for file in (self._file, self._shapes, -1 if self._lock is None else self._lock):
            if file >= 0:
                os.close(file)

    def _drop(self, points: int) -> None:
        self.live.drop("disk_full", points)

    def _populate(self, end: int) -> None:
        """Fault in the pages of the next records together, so that hardly any call meets a page fault."""
        ahead = min(records.SEGMENT_BYTES, (end + _AHEAD + 4095) & ~4095)
        start = self._ahead & ~4095
        assert isinstance(self.buffer, mmap.mmap)
        with contextlib.suppress(OSError):  # on an older kernel the pages come one by one
            self.buffer.madvise(_POPULATE_WRITE, start, ahead - start)
        self._ahead = ahead

    def advance(self) -> None:
        """Let the hot path write as far as pages are faulted in."""
        self.limit = min(self._ahead, self.offset + _LOOK) if self._mapped else 0

    def _roll(self) -> bool:
        """Begin a new segment; False when there is no room for one."""
        now = time.monotonic_ns()
        if now < self._blocked_until:
            return False
        first, before = self.sequence + 1, self.buffer
        try:
            self._make_room()
            buffer, file = self._create(first)
        except OSError as error:
            self._blocked_until = now + RETRY_NS
            self.limit = 0
            self.offset = records.SEGMENT_BYTES
            self._warn("disk_full", f"points are dropped: cannot write to {self.folder}: {error.strerror or error}")
            return False
        if self.buffer is not before:  # a signal handler that logs was here meanwhile
            old: tuple[mmap.mmap | bytearray, int] = (buffer, file)
        else:
            # Everything is in place before the old segment is closed: a signal handler may log in between.
            old = (self.buffer, self._file)
            self.limit = self._ahead = 0
            self.offset, self.buffer, self._file = records.SEGMENT.size, buffer, file
            if self._segments[-1:] != [first]:  # else what was begun was removed before anything was in it
                self._segments.append(first)
        if isinstance(old[0], mmap.mmap):
            old[0].close()
        if old[1] >= 0:
            os.close(old[1])
        if self._mapped:
            self._populate(self.offset)
        return True

    def _create(self, first: int) -> tuple[mmap.mmap | bytearray, int]:
        """Create a segment; its blocks are allocated before it is mapped. Raises OSError and leaves nothing then."""
        path = self.folder / spool.segment_name(first)
        head = records.SEGMENT.pack(records.MAGIC, first, time.time_ns() - time.monotonic_ns())
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._remake()
            file = os.open(path, flags, 0o600)
        try:
            if not self._mapped:
                os.write(file, head)
                return bytearray(records.SEGMENT_BYTES), file
            try:
                os.posix_fallocate(file, 0, records.SEGMENT_BYTES)
                buffer = mmap.mmap(file, records.SEGMENT_BYTES)
            finally:
                os.close(file)
            buffer[: len(head)] = head
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return buffer, -1

    def _remake(self) -> None:
        """Make the folder again that someone removed, with all that it takes to read what comes. Raises OSError."""
        self._warn("journal_gone", f"{self.folder} was removed: what waited in it may be lost; it is made again")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is not None:
            os.close(self._lock)
        self._lock = spool.lock(self.folder / spool.WRITER, make=True)
        (self.folder / spool.SENDER).touch(mode=0o600)
        (self.folder / LIVE).write_bytes(bytes(self.live.page))
        (self.folder / spool.SHAPES).write_bytes(b"".join(self._shape_lines))
        if self._shapes >= 0:
            os.close(self._shapes)
            self._shapes = -1
        if self._hello:
            (self.folder / spool.HELLO).write_bytes(self._hello)

    def _make_room(self) -> None:
        """Remove the oldest segments beyond the bound, and count what of them was not yet delivered."""
        if len(self._segments) < self._max:
            return
        try:
            here = [first for first, _ in spool.segments(self.folder)]
        except FileNotFoundError:
            here = []
        self._segments = here
        while len(here) >= self._max:
            first, following = here[0], here[1] if len(here) > 1 else self.sequence + 1
            lost = following - max(first, self.live.acked + 1)
            (self.folder / spool.segment_name(first)).unlink(missing_ok=True)
            here = here[1:]
            if lost > 0:
                self.live.drop("journal_full", lost)
                self._warn("journal_full", f"the journal in {self.folder} is full: the oldest points are dropped")
        self._segments = here

    def _write(self, size: int, pack: Callable[[mmap.mmap | bytearray, int], None], points: int) -> bool:
        """Append a record to the file; a partly written one is cut off again."""
        assert isinstance(self.buffer, bytearray)
        pack(self.buffer, 0)
        try:
            written = os.write(self._file, memoryview(self.buffer)[:size])
            if written == size:
                self.offset += size
                self.sequence += 1
                return True
            os.ftruncate(self._file, self.offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._warn("disk_full", f"points are dropped: cannot write to {self.folder}: {error.strerror or error}")
        except BaseException:  # Ctrl-C: what is there as a whole counts, and nothing is written behind a part
            if os.fstat(self._file).st_size == self.offset + size:
                self.offset += size
                self.sequence += 1
            else:
                self.offset = records.SEGMENT_BYTES
            raise
        self.offset = records.SEGMENT_BYTES  # whatever came of it, go on in a new segment
        self._blocked_until = time.monotonic_ns() + RETRY_NS
        self._drop(points)
        return False
