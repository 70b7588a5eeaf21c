"""Cuts what is large into pieces that fit into a journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rankscope.sdk._records import PIECE_BYTES


def pieces(data: bytes | Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield pieces no larger than one may be, each with whether it is the last; at least one, even if empty."""
    held: bytes | None = None
    for part in [data] if isinstance(data, (bytes, bytearray, memoryview)) else data:
        view = memoryview(part)
        for start in range(0, max(1, len(view)), PIECE_BYTES):
            if held is not None:
                yield held, False
            held = bytes(view[start : start + PIECE_BYTES])
    yield held if held is not None else b"", True
