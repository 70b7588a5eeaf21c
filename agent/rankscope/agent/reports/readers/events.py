"""Reads TensorBoard's event files, whatever wrote them, up to the last whole record."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false
# TensorBoard's generated messages come without types.

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util

from rankscope.agent.reports.rows import Row

LARGEST = 64 << 20  # bytes of a record that is believed
OTHER_PLUGINS = frozenset(("hparams", "text", "images", "audio", "histograms", "graphs", "pr_curves", "mesh"))


def read(stream: IO[bytes], bad: list[str], rank: int = 0) -> Iterator[Row]:
    """Yield the scalars of an event file: one row for the values of one step that follow on each other.

    A torn record at the end, as a killed run leaves it, ends the reading and is described in `bad`.
    """
    step, time, metrics = 0, 0.0, dict[str, float]()
    for data in _records(stream, bad):
        event = event_pb2.Event.FromString(data)
        if not event.HasField("summary"):
            continue
        scalars = dict(_scalars(event))
        if not scalars:
            continue
        if metrics and (event.step != step or not metrics.keys().isdisjoint(scalars)):
            yield rank, step, time, metrics, False
            metrics = {}
        step, time = event.step, event.wall_time
        metrics.update(scalars)
    if metrics:
        yield rank, step, time, metrics, False


def _records(stream: IO[bytes], bad: list[str]) -> Iterator[bytes]:
    while head := stream.read(12):
        if len(head) < 12:
            bad.append("the last record is torn")
            return
        (length,) = struct.unpack("<Q", head[:8])
        if length > LARGEST:
            bad.append(f"a record of {length} bytes at {stream.tell()}: is it an event file?")
            return
        data = stream.read(length)
        if len(data) < length or len(stream.read(4)) < 4:
            bad.append("the last record is torn")
            return
        yield data


def _scalars(event: event_pb2.Event) -> Iterator[tuple[str, float]]:
    for value in event.summary.value:
        if value.HasField("simple_value"):
            yield value.tag, value.simple_value
        elif value.HasField("tensor") and value.metadata.plugin_data.plugin_name not in OTHER_PLUGINS:
            array = tensor_util.make_ndarray(value.tensor)
            if array.size == 1 and array.dtype.kind in "fiu":
                yield value.tag, float(array.reshape(()))
