"""Protocol buffer encoding by hand: the few messages of event files, without the libraries that define them."""

from __future__ import annotations

import struct
from typing import SupportsFloat

_DOUBLE = struct.Struct("<d")


def varint(value: int) -> bytes:
    """Return an integer as a varint; negative ones take ten bytes, as int64 does."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """Return field `number` of an integer, bool or enum type."""
    return varint(number << 3) + varint(value)


def double(number: int, value: SupportsFloat) -> bytes:
    """Return field `number` of type double."""
    return varint(number << 3 | 1) + _DOUBLE.pack(float(value))


def field(number: int, value: bytes | str) -> bytes:
    """Return field `number` that holds bytes, text, a message or packed numbers."""
    data = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data
