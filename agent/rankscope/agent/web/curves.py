"""Curves of a run: its newest points, thinned out to as many as can be seen without losing any peak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from rankscope.agent.model import FloatArray, IntArray
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Run
from rankscope.agent.web.answers import number
from rankscope.agent.web.archive import Archive, Points

Curve: TypeAlias = dict[str, object]
"""One rank's curve as the API gives it; values that are no finite numbers are strings."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of which series: its name or role, the ranks (empty: all), steps from `first` to `last`."""

    name: str
    ranks: tuple[int, ...]
    first: int | None
    last: int | None
    points: int


@dataclass(frozen=True, slots=True)
class Window:
    """What is in memory of one rank's series."""

    rank: int
    name: str
    count: int  # points that ever came
    points: Points


def windows(run: Run, wanted: Wanted) -> list[Window]:
    """Return copies of the windows of each rank that has the series."""
    return [
        Window(
            index,
            series.name,
            series.count,
            Points(np.array(series.step), np.array(series.time), np.array(series.value)),
        )
        for index, rank in sorted(run.ranks.items())
        if (not wanted.ranks or index in wanted.ranks) and (series := _series(rank, wanted.name)) is not None
    ]


def curves(found: Sequence[Window], wanted: Wanted, folders: Mapping[int, Path], archive: Archive) -> list[Curve]:
    """Return a curve for each window. What no longer is in memory comes from the ranks' folders; this reads files."""
    drawn: list[Curve] = []
    for window in found:
        points = window.points
        if window.count > len(points.step) and window.rank in folders:
            before = archive.curve(folders[window.rank], window.name)
            points = _joined(before, points) if before else points
        drawn.append(_curve(window.rank, window.name, points, wanted))
    return drawn


def archived(run: Mapping[str, object], wanted: Wanted, archive: Archive) -> list[Curve]:
    """Return the curves of a run that is on disk alone; this reads files."""
    found: list[Curve] = []
    for index, folder in archive.ranks(str(run["project"]), str(run["id"])).items():
        if wanted.ranks and index not in wanted.ranks:
            continue
        points = archive.curve(folder, wanted.name)
        if points is not None:
            found.append(_curve(index, wanted.name, points, wanted))
    return found


def _joined(before: Points, window: Points) -> Points:
    """Return what was logged before the window, and then the window."""
    old = int(np.count_nonzero(before.time < window.time[0]))
    return Points(
        np.concatenate([before.step[:old], window.step]),
        np.concatenate([before.time[:old], window.time]),
        np.concatenate([before.value[:old], window.value]),
    )


def _curve(rank: int, name: str, points: Points, wanted: Wanted) -> Curve:
    step, time, value = points
    kept = np.ones(len(step), bool)
    if wanted.first is not None:
        kept &= step >= wanted.first
    if wanted.last is not None:
        kept &= step <= wanted.last
    step, time, value = step[kept], time[kept], value[kept]
    chosen = thin(value, wanted.points)
    return {
        "rank": rank,
        "name": name,
        "count": len(points.step),  # points that are there
        "step": step[chosen].tolist(),
        "time": time[chosen].tolist(),
        "value": [number(v) for v in value[chosen].tolist()],
    }


def _series(rank: Rank, name: str) -> Series | None:
    if name.startswith("phase:"):
        return rank.phases.get(name.removeprefix("phase:"))
    if name == "step_seconds" and name not in rank.series:
        return rank.step_seconds
    return rank.series.get(name) or rank.role(name)


def thin(value: FloatArray, points: int) -> IntArray:
    """Return the positions of at most `points` values: of each stretch its least, greatest and first non-finite one."""
    n = len(value)
    if n <= points:
        return np.arange(n)
    stretches = max(1, (points - 2) // 3)
    edges = np.linspace(0, n, stretches + 1).astype(int)
    chosen = {0, n - 1}
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = value[start:end]
        finite = np.isfinite(part)
        if not finite.all():
            chosen.add(start + int(np.argmin(finite)))
        if finite.any():
            chosen.add(start + int(np.argmin(np.where(finite, part, np.inf))))
            chosen.add(start + int(np.argmax(np.where(finite, part, -np.inf))))
    return np.array(sorted(chosen), np.int64)
