"""From records of a journal to messages: the rows of one shape become a block."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import cast

from rankscope.sdk._records import Column, Event, Rows, Shape
from rankscope.v1 import ingest_pb2

REASONS = {
    "finished": ingest_pb2.Goodbye.FINISHED,
    "exception": ingest_pb2.Goodbye.EXCEPTION,
    "signal": ingest_pb2.Goodbye.SIGNAL,
    "vanished": ingest_pb2.Goodbye.VANISHED,
}


class Batches:
    """Makes the batches of one stream: it numbers the series that the stream has named so far.

    Sequence numbers run through the blocks in their order; an event takes the place that its offset says.
    """

    def __init__(self) -> None:
        self._series: dict[Column, int] = {}

    def make(
        self,
        first: int,
        records: Sequence[Rows | Event],
        shape: Callable[[int], Shape],
        clock_offset: int,
        left_out: Collection[int] = (),
    ) -> tuple[ingest_pb2.Batch, int]:
        """Return the batch of records that follow each other, and how many values nothing is known of.

        The records whose offsets are in `left_out` are counted in the batch, but not in it.
        """
        batch = ingest_pb2.Batch(
            first_sequence=first, records=sum(len(found) for found in records), clock_offset_ns=clock_offset
        )
        unreadable = offset = 0
        for found in records:
            if isinstance(found, Rows):
                rows = found
                if left_out:
                    rows = found.only([row for row in range(len(found)) if offset + row not in left_out])
                if len(rows):
                    unreadable += self._block(batch, rows, shape)
            elif offset not in left_out:
                batch.events.append(_event(found, offset))
            offset += len(found)
        return batch, unreadable

    def _block(self, batch: ingest_pb2.Batch, rows: Rows, shape: Callable[[int], Shape]) -> int:
        try:
            columns = shape(rows.shape)
        except KeyError:  # its line was lost to a full disk
            return len(rows.values)
        batch.blocks.append(
            ingest_pb2.Block(
                series=[self._number(batch, column) for column in columns.columns],
                step=rows.steps,
                monotonic_ns=rows.times,
                value=rows.values,
                late=columns.late,
            )
        )
        return 0

    def _number(self, batch: ingest_pb2.Batch, column: Column) -> int:
        number = self._series.get(column)
        if number is None:
            number = self._series[column] = len(self._series)
            kind = ingest_pb2.Series.PHASE if column.kind == "phase" else ingest_pb2.Series.SCALAR
            batch.series.add(id=number, name=_valid(column.name), kind=kind)
        return number


def _event(record: Event, offset: int) -> ingest_pb2.Event:
    event = ingest_pb2.Event(offset=offset, step=record.step, monotonic_ns=record.time)
    fields = record.fields
    if record.kind == "text":
        event.text.tag, event.text.value = _text(fields, "tag"), _text(fields, "value")
    elif record.kind == "alert":
        event.alert.title, event.alert.text = _text(fields, "title"), _text(fields, "text")
        event.alert.severity = _text(fields, "severity")
    elif record.kind == "expect":
        event.expect.seconds = _real(fields, "seconds")
    elif record.kind == "goodbye":
        bye = event.goodbye
        bye.reason = REASONS.get(_text(fields, "reason"), ingest_pb2.Goodbye.UNKNOWN)
        bye.exit_code, bye.signal = int(_real(fields, "exit_code")), int(_real(fields, "signal"))
        bye.exception, bye.traceback = _text(fields, "exception"), _text(fields, "traceback")
        memory = fields.get("memory")
        for name, value in (cast("dict[str, float]", memory) if isinstance(memory, dict) else {}).items():
            bye.memory[name] = float(value)
    elif record.kind == "media":
        media = event.media
        media.kind, media.tag, media.id = _text(fields, "kind"), _text(fields, "tag"), int(_real(fields, "id"))
        media.index, media.last, media.data = int(_real(fields, "index")), bool(fields.get("last")), record.data
        if "metadata" in fields:
            media.metadata_json = json.dumps(fields["metadata"])
    return event


def _text(fields: Mapping[str, object], name: str) -> str:
    return _valid(str(fields.get(name, "")))


def _valid(text: str) -> str:
    """Return text that can travel: half a surrogate pair, such as a file's name may hold, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _real(fields: Mapping[str, object], name: str) -> float:
    value = fields.get(name, 0)
    return float(value) if isinstance(value, (int, float)) else 0.0
