"""Turns protobuf messages into the agent's values, and refuses what makes no sense."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import cast

import numpy as np

from rankscope.agent.model import (
    SEVERITIES,
    Batch,
    Block,
    Column,
    End,
    Event,
    Expect,
    FloatArray,
    Goodbye,
    Heartbeat,
    IntArray,
    Media,
    RankInfo,
    RankKey,
    Severity,
    Stacks,
    Text,
    UserAlert,
)
from rankscope.agent.runs.naming import run_name, safe_name
from rankscope.v1 import ingest_pb2

MAX_NAMES = 5_000  # series a stream may name
MAX_NAME = 256  # characters of a series' name
MAX_TEXT = 1_000_000  # characters of a text, a traceback
MAX_CONFIG = 1_000_000  # bytes of a run's configuration
MAX_METADATA = 64_000  # bytes of what is said of something large
MAX_DEPTH = 64  # levels of a configuration

ENDS = {
    ingest_pb2.Goodbye.FINISHED: End.FINISHED,
    ingest_pb2.Goodbye.EXCEPTION: End.EXCEPTION,
    ingest_pb2.Goodbye.SIGNAL: End.SIGNAL,
    ingest_pb2.Goodbye.VANISHED: End.VANISHED,
}

Refuse = Callable[[str, int], None]


class WireError(Exception):
    """A message that no correct SDK sends; the text says what is wrong with it."""


class Names:
    """The series that a stream has named so far, by number."""

    def __init__(self) -> None:
        self._columns: dict[int, Column | None] = {}
        self._known = 0

    def add(self, series: ingest_pb2.Series) -> None:
        if series.id > 10 * MAX_NAMES and series.id not in self._columns and len(self._columns) > 20 * MAX_NAMES:
            raise WireError("too many series numbers")
        allowed = self._known < MAX_NAMES and 0 < len(series.name) <= MAX_NAME
        phase = series.kind == ingest_pb2.Series.PHASE
        self._columns[series.id] = Column(series.name, "phase" if phase else "scalar") if allowed else None
        self._known += allowed

    def column(self, number: int) -> Column | None:
        """Return a series, or None for one that was refused. Raises WireError for one never named."""
        try:
            return self._columns[number]
        except KeyError:
            raise WireError(f"series {number} was never named") from None


def to_info(hello: ingest_pb2.Hello) -> RankInfo:
    """Return who a rank is, with names that are safe for folders and labels."""
    if not hello.run_id or not hello.session:
        raise WireError("hello lacks run_id or session")
    if hello.rank >= 2**20 or hello.world_size > 2**20 or hello.rank >= max(1, hello.world_size):
        raise WireError(f"rank {hello.rank} of {hello.world_size} makes no sense")
    if len(hello.config_json) > MAX_CONFIG:
        raise WireError(f"config is larger than {MAX_CONFIG} bytes")
    try:
        config: object = json.loads(hello.config_json) if hello.config_json else {}
    except (ValueError, RecursionError):
        raise WireError("config is no JSON") from None
    if not isinstance(config, dict):
        raise WireError("config is no JSON object")
    if _deeper(cast("dict[str, object]", config), MAX_DEPTH):
        raise WireError(f"config is nested deeper than {MAX_DEPTH} levels")
    project = safe_name(hello.project, "default")
    return RankInfo(
        key=RankKey(project, run_name(hello.name or hello.project, hello.run_id), hello.rank),
        session=hello.session,
        run_id=hello.run_id[:256],
        name=hello.name[:256],
        attempt=hello.attempt,
        local_rank=hello.local_rank,
        world_size=hello.world_size,
        local_world_size=hello.local_world_size,
        node_rank=hello.node_rank,
        hostname=hello.hostname[:256],
        pid=hello.pid,
        pid_start_ticks=hello.pid_start_ticks,
        started=hello.started_unix_seconds if math.isfinite(hello.started_unix_seconds) else 0.0,
        device_uuids=tuple(hello.device_uuids)[:64],
        visible_devices=hello.visible_devices[:4096],
        config=cast("dict[str, object]", config),
        tags=tuple(hello.tags)[:64],
        notes=hello.notes[:MAX_TEXT],
        environment={k[:256]: v[:4096] for k, v in list(hello.environment.items())[:256]},
        job_id=hello.job_id[:256],
        launch_id=hello.launch_id[:256],
        launcher=hello.launcher[:64],
        cgroup=hello.cgroup[:4096],
        journal=hello.journal[:4096],
        sdk_version=hello.sdk_version[:64],
    )


def _deeper(value: object, levels: int) -> bool:
    """True for JSON that is nested deeper than so many levels."""
    if isinstance(value, dict):
        parts = list(cast("dict[str, object]", value).values())
    elif isinstance(value, list):
        parts = cast("list[object]", value)
    else:
        return False
    return levels <= 0 or any(_deeper(part, levels - 1) for part in parts)


def to_batch(batch: ingest_pb2.Batch, names: Names, refuse: Refuse) -> Batch:
    """Return a batch's values; columns that were refused are left out and counted through `refuse`."""
    if not batch.first_sequence or not batch.records:
        raise WireError("a batch has a first sequence number and records")
    for series in batch.series:
        names.add(series)
    offset = batch.clock_offset_ns
    return Batch(
        first=batch.first_sequence,
        last=batch.first_sequence + batch.records - 1,
        blocks=tuple(_block(block, names, offset, refuse) for block in batch.blocks),
        events=tuple(e for event in batch.events if (e := _event(event, offset)) is not None),
        offset=offset * 1e-9,
    )


def _block(block: ingest_pb2.Block, names: Names, offset: int, refuse: Refuse) -> Block:
    rows, width = len(block.step), len(block.series)
    if len(block.monotonic_ns) != rows or len(block.value) != rows * width:
        raise WireError(f"a block of {rows} rows and {width} series has {len(block.value)} values")
    columns = [names.column(number) for number in block.series]
    step: IntArray = np.fromiter(block.step, np.int64, rows)
    clock: IntArray = np.fromiter(block.monotonic_ns, np.int64, rows)
    value: FloatArray = np.reshape(np.fromiter(block.value, np.float64, rows * width), (rows, width))
    if None in columns:
        kept = [i for i, column in enumerate(columns) if column is not None]
        refuse("series_limit", rows * (width - len(kept)))
        value = value[:, kept]
    time = (clock + offset).astype(np.float64) * 1e-9
    return Block(tuple(c for c in columns if c is not None), step, time, value, block.late)


def _event(event: ingest_pb2.Event, offset: int) -> Event | None:
    step, time = event.step, (event.monotonic_ns + offset) * 1e-9
    kind = event.WhichOneof("body")
    if kind == "text":
        return Text(step, time, event.text.tag[:MAX_NAME], event.text.value[:MAX_TEXT])
    if kind == "alert":
        severity = event.alert.severity
        known: Severity = severity if severity in SEVERITIES else "warning"
        return UserAlert(step, time, event.alert.title[:MAX_NAME], event.alert.text[:MAX_TEXT], known)
    if kind == "expect":
        return Expect(step, time, event.expect.seconds)
    if kind == "goodbye":
        bye = event.goodbye
        return Goodbye(
            step,
            time,
            ENDS.get(bye.reason, End.UNKNOWN),
            bye.exit_code,
            bye.signal,
            bye.exception[:4096],
            bye.traceback[:MAX_TEXT],
            dict(bye.memory),
        )
    if kind == "media":
        media = event.media
        if len(media.metadata_json) > MAX_METADATA:
            raise WireError(f"metadata is larger than {MAX_METADATA} bytes")
        try:
            metadata: object = json.loads(media.metadata_json or "{}")
        except (ValueError, RecursionError):
            raise WireError("metadata is no JSON") from None
        table = cast("dict[str, object]", metadata) if isinstance(metadata, dict) else {}
        return Media(
            step, time, media.kind[:64], media.tag[:MAX_NAME], media.id, media.index, media.last, media.data, table
        )
    return None  # said by a newer SDK


def to_stacks(stacks: ingest_pb2.Stacks) -> Stacks:
    return Stacks(stacks.text[:MAX_TEXT], stacks.refused[:MAX_NAME] or ("" if stacks.text else "an empty answer"))


def to_heartbeat(beat: ingest_pb2.Heartbeat) -> Heartbeat:
    return Heartbeat(
        time=(beat.monotonic_ns + beat.clock_offset_ns) * 1e-9,
        step=beat.step,
        phase=beat.phase[:64],
        journal_bytes=beat.journal_bytes,
        dropped={reason[:64]: count for reason, count in list(beat.dropped.items())[:64]},
        log_seconds={quantile[:16]: value for quantile, value in list(beat.log_seconds.items())[:8]},
        overhead_ratio=beat.overhead_ratio,
        offset=beat.clock_offset_ns * 1e-9,
    )
