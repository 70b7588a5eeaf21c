"""Rows of a record, whatever its format: what readers give and a replay takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from rankscope.agent.model import FloatArray, IntArray

CHUNK = 512  # rows that are judged together

Row: TypeAlias = tuple[int, int, float, Mapping[str, float], bool]
"""Rank, step, Unix seconds (NaN: unknown), metrics by name, and whether it only says that time goes on."""


@dataclass(slots=True)
class Part:
    """The rows of one rank in a chunk, in their order; each metric has its own, as no row need have all."""

    row: IntArray  # (n,) place in the chunk
    step: IntArray  # (n,)
    time: FloatArray  # (n,)
    columns: dict[str, tuple[IntArray, FloatArray]]  # by name: index into the above, and value


@dataclass(slots=True)
class Chunk:
    """Rows that follow on each other."""

    parts: dict[int, Part] = field(default_factory=dict[int, Part])  # by rank
    beats: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])  # rank, step, time
    rows: int = 0

    @property
    def time(self) -> float:
        """The latest moment that the chunk knows of, NaN if none."""
        known = [part.time[-1] for part in self.parts.values() if len(part.time)] + [beat[2] for beat in self.beats]
        known = [float(time) for time in known if not math.isnan(time)]
        return max(known) if known else math.nan


def chunk_of(rows: Iterable[Row]) -> Chunk:
    """Gather rows in columns."""
    lists: dict[int, tuple[list[int], list[int], list[float], dict[str, tuple[list[int], list[float]]]]] = {}
    chunk = Chunk()
    for number, (rank, step, time, metrics, beat) in enumerate(rows):
        chunk.rows += 1
        if beat:
            chunk.beats.append((rank, step, time))
            continue
        found = lists.get(rank)
        if found is None:
            found = lists[rank] = ([], [], [], {})
        places, steps, times, columns = found
        index = len(steps)
        places.append(number)
        steps.append(step)
        times.append(time)
        for name, value in metrics.items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = ([], [])
            column[0].append(index)
            column[1].append(value)
    for rank, (places, steps, times, columns) in lists.items():
        arrays = {
            name: (np.array(index, np.int64), np.array(value, np.float64)) for name, (index, value) in columns.items()
        }
        chunk.parts[rank] = Part(np.array(places, np.int64), np.array(steps, np.int64), np.array(times), arrays)
    return chunk


def chunks(rows: Iterable[Row], size: Callable[[], int] = lambda: CHUNK) -> Iterator[Chunk]:
    """Cut rows into chunks: of `size()` rows, before each jump of the clock, and after each sign of life without a
    step.
    """
    held: list[Row] = []
    last = math.nan
    usual = 0.0  # seconds between rows, a running mean that jumps do not move
    most = size()
    for row in rows:
        gap = row[2] - last
        if held and (len(held) >= most or (gap > max(MIN_GAP, 4 * usual) and usual > 0)):
            yield chunk_of(held)
            held = []
            most = size()
        if gap > 0:
            usual = gap if not usual else usual + (min(gap, 4 * usual) - usual) / 32
        if not math.isnan(row[2]):
            last = row[2]
        held.append(row)
        if row[4]:
            yield chunk_of(held)
            held = []
    if held:
        yield chunk_of(held)


MIN_GAP = 5.0  # seconds without a row that are worth a look at the clock
