"""When a rank made no steps for long (an evaluation, a checkpoint, a compilation), and how many since it began."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rankscope.agent.model import FloatArray
from rankscope.agent.runs.rank import Rank

_LEAST = 10.0  # seconds


def pauses(rank: Rank, now: float) -> list[tuple[float, float]]:
    """Return begin and end of each time without a step, the present one included, in Unix seconds.

    A pause is ten times as long as what usually lies between two rows, and 10 s at least. Of a rank that logged fewer
    than three rows nothing is known.
    """
    times = rank.step_seconds.time
    if len(times) < 3:
        return []
    rows: FloatArray = np.append(times, max(now, rank.last_step_time))
    apart = np.diff(rows)
    limit = max(_LEAST, 10 * float(np.median(apart[-33:-1])))
    return [(float(rows[i]), float(rows[i + 1])) for i in np.flatnonzero(apart > limit).tolist()]


def outside(time: FloatArray, of: list[tuple[float, float]]) -> NDArray[np.bool_]:
    """Return which of these times lie in none of the pauses; what is sampled tells of the moment before it."""
    free = np.ones(len(time), np.bool_)
    for begin, end in of:
        free &= (time <= begin) | (time > end + 1.0)
    return free


def steps_of_attempt(rank: Rank) -> int:
    """Return how many steps a rank made since it was started last: memory and caches began anew with it."""
    if not rank.restarts:
        return rank.steps
    times, steps = rank.step_seconds.time, rank.step_seconds.step
    first = int(np.searchsorted(times, rank.restarts[-1][2]))
    return int(steps[-1] - steps[first]) + 1 if first < len(steps) else 0
