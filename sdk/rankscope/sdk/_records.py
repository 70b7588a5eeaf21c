"""What a journal holds, byte by byte: segments of records, each closed by a mark, so that a torn one is recognised.

A record is 8-byte aligned: size and shape (u32 each), step and time (i64 each; CLOCK_MONOTONIC nanoseconds), then the
values of a row (f64 each) or the payload of an event, then the mark. It is written front to back and the mark last; a
record without its mark does not exist yet. Byte order is the machine's: a journal is read where it was written.
"""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

SEGMENT_BYTES = 1 << 20
PIECE_BYTES = 256 * 1024  # largest piece of something large
MARK = 0xB5C0_FBCF_EC4D_3B2F
EVENT = 0x8000_0000  # shapes from here on are kinds of events

SEGMENT = struct.Struct("=8sQq40x")  # magic, sequence of the first record, wall clock minus CLOCK_MONOTONIC in ns
MAGIC = b"RANKJRN1"
HEAD = struct.Struct("=IIqq")
TAIL = struct.Struct("=Q")
SIZES = struct.Struct("=II")  # of an event: bytes of its JSON, bytes of its data

KINDS: tuple[str, ...] = ("text", "alert", "expect", "goodbye", "media")


class Column(NamedTuple):
    """What a column of a row holds; `kind` is scalar or phase."""

    name: str
    kind: str = "scalar"


@dataclass(frozen=True)
class Shape:
    """The columns of a row; `late`: its values became known after their step was logged."""

    number: int
    columns: tuple[Column, ...]
    late: bool = False

    def line(self) -> bytes:
        columns = [[column.name, column.kind] for column in self.columns]
        return json.dumps([self.number, self.late, columns]).encode() + b"\n"


def read_shape(line: bytes) -> Shape:
    """Return the shape that a line of the journal's file `shapes` describes. Raises ValueError on a torn line."""
    number, late, columns = cast("tuple[int, bool, list[tuple[str, str]]]", json.loads(line))
    return Shape(number, tuple(Column(name, kind) for name, kind in columns), late)


@functools.lru_cache(256)
def row_struct(width: int) -> struct.Struct:
    """The layout of a whole row of `width` values: size, shape, step, time, values, mark."""
    return struct.Struct(f"=IIqq{width}dQ")


@dataclass(frozen=True)
class Rows:
    """Rows of one shape that follow each other, as they are read back."""

    shape: int  # number of the shape
    steps: Sequence[int]
    times: Sequence[int]  # CLOCK_MONOTONIC, ns
    values: Sequence[float]  # row after row

    def __len__(self) -> int:
        return len(self.steps)

    def one(self, row: int) -> Sequence[float]:
        """Return the values of one row."""
        width = len(self.values) // len(self.steps)
        return self.values[row * width : (row + 1) * width]

    def only(self, kept: Sequence[int]) -> Rows:
        """Return some of the rows."""
        values = [value for row in kept for value in self.one(row)]
        return Rows(self.shape, [self.steps[row] for row in kept], [self.times[row] for row in kept], values)


@dataclass(frozen=True)
class Event:
    """An event, as it is read back."""

    kind: str
    step: int
    time: int  # CLOCK_MONOTONIC, ns
    fields: Mapping[str, object]
    data: bytes = b""

    def __len__(self) -> int:
        return 1


def event(kind: str, step: int, time: int, fields: Mapping[str, object], data: bytes = b"") -> bytes:
    """Return an event as a record. Raises ValueError when it does not fit into a segment."""
    text = json.dumps(fields).encode()
    padding = -(len(text) + len(data)) % 8
    size = HEAD.size + SIZES.size + len(text) + len(data) + padding + TAIL.size
    if size > SEGMENT_BYTES - SEGMENT.size:
        raise ValueError(f"a {kind} of {size} bytes is larger than a segment")
    head = HEAD.pack(size, EVENT + KINDS.index(kind), step, time) + SIZES.pack(len(text), len(data))
    return b"".join((head, text, data, bytes(padding), TAIL.pack(MARK)))


def records(buffer: bytes, most: int = 1 << 30) -> Iterator[tuple[int, Rows | Event]]:
    """Yield the whole records that `buffer` begins with, `most` of them, each time with the offset of their end."""
    offset = 0
    while most > 0 and (size := whole(buffer, offset)):
        _, shape, step, time = cast("tuple[int, int, int, int]", HEAD.unpack_from(buffer, offset))
        if shape < EVENT:
            rows = _rows(buffer, offset, size, shape, most)
            offset += size * len(rows)
            most -= len(rows)
            yield offset, rows
        else:
            found = _event(buffer, offset + HEAD.size, shape, step, time)
            offset += size
            most -= 1
            yield offset, found


def whole(buffer: bytes | bytearray | mmap.mmap, offset: int) -> int:
    """Return the size of the record at `offset`, 0 if there is none that is whole."""
    if offset + HEAD.size + TAIL.size > len(buffer):
        return 0
    (size,) = struct.unpack_from("=I", buffer, offset)
    if size < HEAD.size + TAIL.size or size % 8 or offset + size > len(buffer):
        return 0
    (mark,) = TAIL.unpack_from(buffer, offset + size - TAIL.size)
    return size if mark == MARK else 0


def _rows(buffer: bytes, offset: int, size: int, shape: int, most: int) -> Rows:
    """Return the rows of one shape from `offset` on, the first of which is whole: column by column, without a loop."""
    words = size // 8  # of a row: head, step, time, values, mark
    rows = memoryview(buffer)[offset : offset + size * min(most, (len(buffer) - offset) // size)]
    heads, marks = rows.cast("Q")[::words].tolist(), rows.cast("Q")[words - 1 :: words].tolist()
    count = len(heads)
    if heads.count(heads[0]) < count or marks.count(MARK) < count:
        count = next(row for row, ends in enumerate(zip(heads, marks, strict=True)) if ends != (heads[0], MARK))
    integers, reals = rows[: count * size].cast("q"), rows[: count * size].cast("d")
    width = words - 4
    values = [0.0] * (count * width)
    for column in range(width):
        values[column::width] = reals[3 + column :: words].tolist()
    return Rows(shape, integers[1::words].tolist(), integers[2::words].tolist(), values)


def _event(buffer: bytes, body: int, shape: int, step: int, time: int) -> Event:
    text, data = cast("tuple[int, int]", SIZES.unpack_from(buffer, body))
    body += SIZES.size
    fields: object = None
    with contextlib.suppress(ValueError):
        fields = json.loads(buffer[body : body + text])
    kind = KINDS[shape - EVENT] if shape - EVENT < len(KINDS) else "unknown"
    table = cast("dict[str, object]", fields) if isinstance(fields, dict) else {}
    return Event(kind, step, time, table, buffer[body + text : body + text + data])
