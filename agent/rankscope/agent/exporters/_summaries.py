"""Summary values of every kind, as TensorBoard's plugins read them."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from rankscope.agent.exporters._wire_format import double, field, integer

_DT_FLOAT, _DT_STRING = 1, 7
_TENSOR_CLASS = 2  # SummaryMetadata.data_class of values that are tensors


def metadata(plugin: str, content: bytes = b"", data_class: int = 0) -> bytes:
    """Return the metadata that says which plugin a tag belongs to."""
    named = field(1, field(1, plugin) + field(2, content))
    return named + (integer(4, data_class) if data_class else b"")


def text(tag: str, value: str) -> bytes:
    """Return a value of the text plugin; it is shown as Markdown."""
    tensor = integer(1, _DT_STRING) + field(2, b"") + field(8, value)
    return field(1, tag) + field(8, tensor) + field(9, metadata("text", data_class=_TENSOR_CLASS))


def marker(tag: str, plugin: str, content: bytes) -> bytes:
    """Return a value that consists of its metadata alone, with an empty tensor."""
    tensor = integer(1, _DT_FLOAT) + field(2, field(2, b""))
    return field(1, tag) + field(8, tensor) + field(9, metadata(plugin, content))


def scalar(tag: str, value: float) -> bytes:
    """Return a scalar; it is stored as float32, and beyond that as infinity."""
    stored = value if abs(value) <= 3.4028234e38 else math.copysign(math.inf, value)
    return field(1, tag) + b"\x15" + struct.pack("<f", stored)


def image(tag: str, png: bytes, height: int, width: int, channels: int) -> bytes:
    """Return an image, encoded as PNG."""
    return field(1, tag) + field(4, integer(1, height) + integer(2, width) + integer(3, channels) + field(4, png))


def histogram(tag: str, limits: Sequence[float], counts: Sequence[float], moments: Sequence[float]) -> bytes:
    """Return a histogram: upper limit and count of each bucket; `moments` are min, max, sum and sum of squares."""
    low, high, total, squares = moments
    figures = double(1, low) + double(2, high) + double(3, sum(counts)) + double(4, total) + double(5, squares)
    packed = f"<{len(limits)}d"
    buckets = field(6, struct.pack(packed, *limits)) + field(7, struct.pack(packed, *counts))
    return field(1, tag) + field(5, figures + buckets)


def graph(nodes: Sequence[tuple[str, str, Sequence[str], Sequence[int] | None]]) -> bytes:
    """Return a graph definition: nodes of name, operation, names of inputs, and the shape of the output if known."""
    out = bytearray()
    for name, operation, inputs, shape in nodes:
        node = field(1, name) + field(2, operation) + b"".join(field(3, source) for source in inputs)
        if shape is not None:
            dims = field(7, b"".join(field(2, integer(1, size)) for size in shape))
            node += field(5, field(1, "_output_shapes") + field(2, field(1, dims)))
        out += field(1, node)
    return bytes(out) + field(4, integer(1, 22))
