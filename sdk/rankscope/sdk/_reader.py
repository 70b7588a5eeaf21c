"""Reads a journal back, also while its owner still writes: for whoever delivers it."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rankscope.sdk import _records as records
from rankscope.sdk import _spool as spool

_CHUNK = 32 * 1024
_NOTHING = bytes(4)
# On x86 a record's mark is never stored before its body. Elsewhere stores may be seen out of order for a moment.
_ORDERED = platform.machine() in ("x86_64", "AMD64", "i686")


class Reader:
    """Reads records in order. `next` is the sequence number of the record that comes next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.next = 1
        self.clock_offset = 0  # wall clock minus CLOCK_MONOTONIC when the current segment was begun, ns
        self.step = 0  # newest step that was read
        self.shapes: dict[int, records.Shape] = {}
        self._file = -1
        self._offset = 0
        self._first = 0  # sequence of the first record of the current segment
        self._shapes_at = 0
        self._looks = 0
        self.eager = True  # a next segment may be there at any time

    def seek(self, sequence: int) -> None:
        """Go on with the record `sequence`, or with the first one behind it that is still there."""
        self._close()
        self.next = sequence

    def news(self) -> bool:
        """True when `read` is worth its while: something was written, or it is time to look for a next segment.

        Raises OSError.
        """
        if self._file < 0 or self._look(4) != _NOTHING:
            return True
        self._looks += 1  # every fifth time: a large record may begin a next segment early
        return self.eager or self._offset > records.SEGMENT_BYTES * 3 // 4 or self._looks % 5 == 0

    def read(self, most: int, most_bytes: int) -> tuple[int, list[records.Rows | records.Event]]:
        """Return the sequence of the first record and the records that are there, at most so many.

        A sequence larger than `next` was tells that records are missing: dropped. A list never spans segments.
        """
        if self._file < 0 and not self._open():
            return self.next, []
        found = self._take(most, most_bytes)
        if not found and self._follow():
            found = self._take(most, most_bytes)
        first = self.next
        for one in found:
            self.next += len(one)
            self.step = one.step if isinstance(one, records.Event) else max(one.steps)
        return first, found

    def shape(self, number: int) -> records.Shape:
        """Return what the columns of a row are. Raises KeyError when that was never written down."""
        if number not in self.shapes:
            self._read_shapes()
        return self.shapes[number]

    def waiting(self) -> int:
        """Bytes of records that were not read yet, about."""
        total = 0
        for first, path in self._segments():
            if first > self._first:
                with contextlib.suppress(OSError):
                    total += path.stat().st_blocks * 512
        return total

    def left(self) -> tuple[int, bool]:
        """Return the last record of the open segment, and whether it is a goodbye: all that a removed journal holds."""
        last, said = self.next - 1, False
        for _, found in records.records(self._look(records.SEGMENT_BYTES) if self._file >= 0 else b""):
            last += len(found)
            said = isinstance(found, records.Event) and found.kind == "goodbye"
        return last, said

    def forget(self, safe: int) -> None:
        """Remove segments whose records are all safe; never the newest one."""
        found = self._segments()
        for (_, path), (following, _) in itertools.pairwise(found):
            if following > safe + 1:
                break
            with contextlib.suppress(OSError):
                path.unlink()

    def close(self) -> None:
        self._close()

    def _segments(self) -> list[tuple[int, Path]]:
        try:
            return spool.segments(self.folder)
        except OSError:
            return []

    def _open(self) -> bool:
        """Open the segment that holds the record `next`, or the first one behind it."""
        found = self._segments()
        if not found:
            return False
        index = max((i for i, (first, _) in enumerate(found) if first <= self.next), default=0)
        if not self._enter_one(found[index:]):
            return False
        self._skip()
        return True

    def _enter_one(self, found: Sequence[tuple[int, Path]]) -> bool:
        """Open the first of some segments that can be read: one that another follows is broken, not yet to be begun."""
        return any(self._enter(first, path) for first, path in found)

    def _enter(self, first: int, path: Path) -> bool:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        head = os.pread(file, records.SEGMENT.size, 0)
        if len(head) < records.SEGMENT.size or not head.startswith(records.MAGIC):
            os.close(file)  # not begun yet
            return False
        _, begins, offset = cast("tuple[bytes, int, int]", records.SEGMENT.unpack(head))
        if begins != first:
            os.close(file)  # half of its head is there
            return False
        self._close()
        self.clock_offset = offset
        self._file, self._first = file, begins
        self._offset = records.SEGMENT.size
        return True

    def _skip(self) -> None:
        """Pass over the records of this segment that come before `next`."""
        at = self._first
        if at >= self.next:
            self.next = at
            return
        while at < self.next and (buffer := self._buffer()):
            offset = 0
            while at < self.next and (size := records.whole(buffer, offset)):
                offset += size
                at += 1
            if not offset:
                break
            self._offset += offset
        # When fewer records are here than `next` says, the next segment has it.

    def _take(self, most: int, most_bytes: int) -> list[records.Rows | records.Event]:
        found: list[records.Rows | records.Event] = []
        while most > 0 and most_bytes > 0 and (buffer := self._buffer()):
            part = list(records.records(buffer, most))
            if not part:
                break
            end = part[-1][0]
            if not _ORDERED:
                time.sleep(0.0005)
            again = self._look(end)
            if again != buffer[:end]:  # one was being written during the first look
                part = list(records.records(again, most))
            found += [one for _, one in part]
            most -= sum(len(one) for _, one in part)
            self._offset += end
            most_bytes -= end
        return found

    def _buffer(self) -> bytes:
        """Return what the segment holds from here on; b"" for nothing."""
        size = int.from_bytes(self._look(4), "little")
        return self._look(min(max(size, _CHUNK), records.SEGMENT_BYTES)) if size else b""

    def _look(self, size: int) -> bytes:
        return os.pread(self._file, size, self._offset)

    def _follow(self) -> bool:
        """Go to the next segment when this one is read to its end."""
        found = self._segments()
        if os.fstat(self._file).st_nlink == 0 and self.next in [first for first, _ in found]:
            self._close()  # it was removed while it was empty, and is made again
            return self._open()
        later = [entry for entry in found if entry[0] > self._first]
        if not later:
            return False
        if records.whole(self._buffer(), 0):
            return True  # written between the two looks
        if not self._enter_one(later):
            return False
        self._skip()
        return True

    def _read_shapes(self) -> None:
        try:
            with (self.folder / spool.SHAPES).open("rb") as file:
                file.seek(self._shapes_at)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    with contextlib.suppress(ValueError, TypeError):
                        shape = records.read_shape(line)
                        self.shapes[shape.number] = shape
                    self._shapes_at += len(line)
        except OSError:
            return

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._first = self._offset = 0


def survey(folder: Path) -> tuple[int, bool, int]:
    """Return the last record's sequence number, whether it is a goodbye, and its time; the owner is gone."""
    last, said, time_ns = 0, False, 0
    for first, path in reversed(spool.segments(folder)):
        data = path.read_bytes()
        if not data.startswith(records.MAGIC):
            continue
        at = first - 1
        for _, found in records.records(data[records.SEGMENT.size :]):
            at += len(found)
            said = isinstance(found, records.Event) and found.kind == "goodbye"
            time_ns = found.time if isinstance(found, records.Event) else found.times[-1]
        last = max(last, at)
        if at >= first:
            break
    return last, said, time_ns
