"""What a journal holds, byte by byte: segments of records, each closed by a mark, so that a torn one is recognised.

A record is 8-byte aligned: size and shape (u32 each), step and time (i64 each; CLOCK_MONOTONIC nanoseconds), then the
values of a row (f64 each) or the payload of an event, then the mark. It is written front to back and the mark last; a
record without its mark does not exist yet.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

SEGMENT_BYTES = 1 << 20
PIECE_BYTES = 256 * 1024  # largest piece of something large
MARK = 0xB5C0_FBCF_EC4D_3B2F
EVENT = 0x8000_0000  # shapes from here on are kinds of events

SEGMENT = struct.Struct("<8sQq40x")  # magic, sequence of the first record, wall clock minus CLOCK_MONOTONIC in ns
MAGIC = b"RANKJRN1"
HEAD = struct.Struct("<IIqq")
TAIL = struct.Struct("<Q")
SIZES = struct.Struct("<II")  # of an event: bytes of its JSON, bytes of its data

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


def row_struct(width: int) -> struct.Struct:
    """The layout of a whole row of `width` values: size, shape, step, time, values, mark."""
    return struct.Struct(f"<IIqq{width}dQ")


@dataclass(frozen=True)
class Record:
    """One record as it is read back: a row with its packed values, or an event with its fields."""

    shape: int  # number of the row's shape; of an event: 0
    step: int
    time: int  # CLOCK_MONOTONIC, ns
    values: bytes = b""  # of a row: little-endian doubles
    kind: str = ""  # of an event
    fields: Mapping[str, object] | None = None
    data: bytes = b""

    @property
    def size(self) -> int:
        return HEAD.size + len(self.values) + len(self.data) + 64


def event(kind: str, step: int, time: int, fields: Mapping[str, object], data: bytes = b"") -> bytes:
    """Return an event as a record. Raises ValueError when it does not fit into a segment."""
    text = json.dumps(fields).encode()
    padding = -(len(text) + len(data)) % 8
    size = HEAD.size + SIZES.size + len(text) + len(data) + padding + TAIL.size
    if size > SEGMENT_BYTES - SEGMENT.size:
        raise ValueError(f"a {kind} of {size} bytes is larger than a segment")
    head = HEAD.pack(size, EVENT + KINDS.index(kind), step, time) + SIZES.pack(len(text), len(data))
    return b"".join((head, text, data, bytes(padding), TAIL.pack(MARK)))


def records(buffer: bytes) -> Iterator[tuple[int, Record]]:
    """Yield the whole records that `buffer` begins with, each with the offset of its end."""
    offset = 0
    while (size := whole(buffer, offset)) > 0:
        yield offset + size, parse(buffer, offset, size)
        offset += size


def whole(buffer: bytes | bytearray | mmap.mmap, offset: int) -> int:
    """Return the size of the record at `offset`, 0 if there is none that is whole."""
    if offset + HEAD.size + TAIL.size > len(buffer):
        return 0
    (size,) = struct.unpack_from("<I", buffer, offset)
    if size < HEAD.size + TAIL.size or size % 8 or offset + size > len(buffer):
        return 0
    (mark,) = TAIL.unpack_from(buffer, offset + size - TAIL.size)
    return size if mark == MARK else 0


def parse(buffer: bytes, offset: int, size: int) -> Record:
    """Return the whole record of `size` bytes at `offset`."""
    _, shape, step, time = cast("tuple[int, int, int, int]", HEAD.unpack_from(buffer, offset))
    body = offset + HEAD.size
    if shape < EVENT:
        return Record(shape, step, time, buffer[body : offset + size - TAIL.size])
    text, data = cast("tuple[int, int]", SIZES.unpack_from(buffer, body))
    body += SIZES.size
    fields: object = None
    with contextlib.suppress(ValueError):
        fields = json.loads(buffer[body : body + text])
    kind = KINDS[shape - EVENT] if shape - EVENT < len(KINDS) else "unknown"
    table = cast("dict[str, object]", fields) if isinstance(fields, dict) else {}
    return Record(0, step, time, kind=kind, fields=table, data=buffer[body + text : body + text + data])
