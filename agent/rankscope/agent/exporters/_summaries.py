"""Summary values other than scalars, as TensorBoard's plugins read them."""

from __future__ import annotations

from rankscope.agent.exporters._wire_format import field, integer

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
