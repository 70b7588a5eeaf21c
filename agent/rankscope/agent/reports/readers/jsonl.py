"""Reads JSONL: one object a step, as many a trainer writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import IO, cast

from rankscope.agent.reports.replay import OF_RANK
from rankscope.agent.reports.rows import Row

STEP = ("step", "global_step", "_step", "iteration", "iter")
TIME = ("t", "time", "timestamp", "_timestamp")
NOT_FINITE = {
    "NaN": math.nan,
    "nan": math.nan,
    "Infinity": math.inf,
    "inf": math.inf,
    "-Infinity": -math.inf,
    "-inf": -math.inf,
}


def read(stream: IO[str], bad: list[str]) -> Iterator[Row]:
    """Yield the rows of a JSONL stream; lines that cannot be read are described in `bad`."""
    previous = -1
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            bad.append(f"line {number}: no JSON: {error}")
            continue
        if not isinstance(entry, dict):
            bad.append(f"line {number}: not an object")
            continue
        row = row_of(cast("dict[str, object]", entry), previous)
        if row is not None:
            previous = row[1]
            yield row


def row_of(entry: Mapping[str, object], previous: int) -> Row | None:
    """Return the row that an object is, or None for one without a step (a header)."""
    step: object = None
    for name in STEP:
        step = entry.get(name)
        if step is not None:
            break
    if not isinstance(step, (int, float)) or isinstance(step, bool) or not math.isfinite(step):
        return None
    time = math.nan
    for name in TIME:
        stamp = entry.get(name)
        if isinstance(stamp, (int, float)):
            time = float(stamp)
            break
    rank = entry.get("rank", 0)
    metrics: dict[str, float] = {}
    for name, value in entry.items():
        kind = type(value)
        if kind is float or kind is int:
            metrics[name] = value  # type: ignore[assignment]
        elif kind is str:
            special = NOT_FINITE.get(str(value))
            if special is not None:
                metrics[name] = special
        elif kind is list:
            for owner, part in enumerate(cast("list[object]", value)):
                part = NOT_FINITE.get(part) if isinstance(part, str) else part
                if isinstance(part, (int, float)):
                    metrics[f"{name}{OF_RANK}{owner}"] = float(part)
    for name in (*STEP, *TIME, "rank"):
        metrics.pop(name, None)
    return (rank if isinstance(rank, int) else 0), int(step), time, metrics, entry.get("heartbeat") is True
