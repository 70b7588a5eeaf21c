"""Event-file records: framing with checksums, and rows of scalars encoded many at a time."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from typing import BinaryIO, cast

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from rankscope.agent.exporters._wire_format import field, integer, varint
from rankscope.agent.model import Block, Column

_HEAD = struct.Struct("<QI")  # length of the data, checksum of the length
_FOOT = struct.Struct("<I")  # checksum of the data
_LENGTH = struct.Struct("<Q")
FRAME = _HEAD.size + _FOOT.size  # bytes that framing adds to a record

_crc32c = cast("Callable[[bytes], int]", google_crc32c.value)  # pyright: ignore[reportUnknownMemberType]
_WIDTHS = np.array([1 << 7 * i for i in range(1, 10)], np.uint64)  # the first number that needs one more byte


def masked(crc: int) -> int:
    """Return a checksum as event files store it: rotated by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """Return a record: length, checksum of the length, data, checksum of the data."""
    length = _LENGTH.pack(len(data))
    return length + _FOOT.pack(masked(_crc32c(length))) + data + _FOOT.pack(masked(_crc32c(data)))


def whole(file: BinaryIO) -> int:
    """Return the length of the longest run of sound records from the start of a file: what follows is torn."""
    end = 0
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length, check = _HEAD.unpack(head)
        if masked(_crc32c(head[:8])) != check:
            break
        data = file.read(length)
        foot = file.read(_FOOT.size)
        if len(foot) < _FOOT.size or masked(_crc32c(data)) != _FOOT.unpack(foot)[0]:
            break
        end += length + FRAME
    return end


def tag(column: Column) -> str:
    """Return the tag under which TensorBoard shows a column: the name that was logged; phases under `phase/`."""
    return f"phase/{column.name}" if column.kind == "phase" else column.name


def _bytes(numbers: NDArray[np.float64] | NDArray[np.uint64], kind: str) -> NDArray[np.uint8]:
    """Return n rows of numbers as n rows of the bytes that a type takes."""
    data = numbers.astype(kind).tobytes()
    rows: NDArray[np.uint8] = np.ndarray((len(numbers), len(data) // len(numbers)), np.uint8, data)
    return rows


class Rows:
    """Encodes rows that hold the same columns: one event a row, its values as float32.

    All rows whose step takes the same number of bytes have the same layout, so a whole block is filled in as one
    array; only the checksum is taken row by row.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        summary = bytearray()
        places: list[int] = []
        for column in columns:
            name = field(1, tag(column)) + b"\x15"  # tag, then the key of simple_value
            summary += field(1, name + bytes(4))
            places.append(len(summary) - 4)
        key = b"\x2a" + varint(len(summary))
        self._tail = key + bytes(summary)
        self._places = np.array(
            [len(key) + place + byte for place in places for byte in range(4)], np.intp
        )  # of the values' bytes in the tail
        self._templates: dict[int, tuple[bytes, NDArray[np.intp]]] = {}

    def encode(self, block: Block) -> bytes:
        """Return the records of a block's rows, in order."""
        if not len(block.step):
            return b""
        step = block.step.astype(np.uint64)
        with np.errstate(over="ignore"):  # beyond float32 is infinity
            value = _bytes(block.value, "<f4")
        width = np.searchsorted(_WIDTHS, step, side="right") + 1
        bounds = [0, *(np.flatnonzero(np.diff(width)) + 1).tolist(), len(step)]
        parts = [
            self._encode(int(width[start]), step[start:end], block.time[start:end], value[start:end])
            for start, end in itertools.pairwise(bounds)
            if start < end
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _encode(
        self, width: int, step: NDArray[np.uint64], time: NDArray[np.float64], value: NDArray[np.uint8]
    ) -> bytes:
        """Return the records of rows whose steps take `width` bytes."""
        template, places = self._template(width)
        n, size = len(step), len(template)
        out = np.empty((n, size), np.uint8)
        out[:] = np.frombuffer(template, np.uint8)
        out[:, 13:21] = _bytes(time, "<f8")
        digits = step[:, None] >> np.arange(0, 7 * width, 7, dtype=np.uint64) & np.uint64(0x7F)
        digits[:, :-1] |= np.uint64(0x80)
        out[:, 22 : 22 + width] = digits
        out[:, places] = value
        start, end = _HEAD.size, size - _FOOT.size
        raw = out.tobytes()
        crc = np.array([_crc32c(raw[i + start : i + end]) for i in range(0, n * size, size)], np.uint64)
        crc = ((crc >> np.uint64(15) | crc << np.uint64(17)) & np.uint64(0xFFFFFFFF)) + np.uint64(0xA282EAD8)
        out[:, end:] = _bytes(crc, "<u4")
        return out.tobytes()

    def _template(self, width: int) -> tuple[bytes, NDArray[np.intp]]:
        """Return a framed row with nothing filled in, and where the values' bytes go."""
        found = self._templates.get(width)
        if found is None:
            head = b"\x09" + bytes(8) + b"\x10" + bytes(width)  # wall time, step
            found = frame(head + self._tail), self._places + (_HEAD.size + len(head))
            self._templates[width] = found
        return found


def version_record(time: float) -> bytes:
    """Return the record that every event file begins with."""
    return frame(struct.pack("<Bd", 0x09, time) + field(3, "brain.Event:2"))


def event(step: int, time: float, *values: bytes) -> bytes:
    """Return the record of an event that holds encoded summary values."""
    summary = b"".join(field(1, value) for value in values)
    return frame(struct.pack("<Bd", 0x09, time) + integer(2, step) + field(5, summary))


def graph_record(time: float, definition: bytes) -> bytes:
    """Return the record of an event that holds a graph definition."""
    return frame(struct.pack("<Bd", 0x09, time) + field(4, definition))
