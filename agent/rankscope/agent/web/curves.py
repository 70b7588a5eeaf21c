"""Curves of a run: its newest points, thinned out to as many as can be seen without losing any peak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rankscope.agent.model import FloatArray, IntArray
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Rank, Run
from rankscope.agent.web.answers import number


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of which series: its name or role, the ranks (empty: all), steps from `first` to `last`."""

    name: str
    ranks: tuple[int, ...]
    first: int | None
    last: int | None
    points: int


def curves(run: Run, wanted: Wanted) -> list[dict[str, object]]:
    """Return one curve for each rank that has the series. Values that are no finite numbers are strings."""
    found: list[dict[str, object]] = []
    for index, rank in sorted(run.ranks.items()):
        series = _series(rank, wanted.name)
        if series is None or (wanted.ranks and index not in wanted.ranks):
            continue
        step, time, value = series.step, series.time, series.value
        kept = np.ones(len(step), bool)
        if wanted.first is not None:
            kept &= step >= wanted.first
        if wanted.last is not None:
            kept &= step <= wanted.last
        step, time, value = step[kept], time[kept], value[kept]
        chosen = thin(value, wanted.points)
        found.append(_curve(index, series, step[chosen], time[chosen], value[chosen]))
    return found


def _curve(rank: int, series: Series, step: IntArray, time: FloatArray, value: FloatArray) -> dict[str, object]:
    return {
        "rank": rank,
        "name": series.name,
        "count": series.count,  # points that ever came
        "step": step.tolist(),
        "time": time.tolist(),
        "value": [number(v) for v in value.tolist()],
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
