"""The CPU cores that a rank may use: how many there are, and how busy they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node


class Cores(NamedTuple):
    """The machine's cores, or those that the rank is limited to, by its control group or by what it is bound to."""

    number: float | None  # None where it is not sampled
    busy: float  # ratio
    limited: bool

    @property
    def idle(self) -> float | None:
        """How many are idle."""
        return None if self.number is None else self.number * (1 - self.busy)


def cores(node: Node, rank: Rank, since: float) -> Cores | None:
    """Return what holds the rank up sooner, its limit or the machine; None where neither was sampled since then.

    A rank that may use 4 of 128 cores has used its own up while the machine is 97 % idle.
    """
    busy, counted = cpu_busy(node, since), node.window("system_cpus")
    machine = (
        Cores(counted.last if counted is not None and len(counted) else None, busy, False) if busy is not None else None
    )
    own = _limited(node, rank, since)
    if own is None or machine is None:
        return own or machine
    return max(own, machine, key=lambda each: each.busy)


def _limited(node: Node, rank: Rank, since: float) -> Cores | None:
    key = (rank.info.key.run, str(rank.info.key.rank))
    used, count = node.window("rank_cpu_limit_used_seconds_total", *key), node.window("rank_cpus", *key)
    if used is None or count is None or not len(used) or not len(count) or not count.last or used.time[0] > since:
        return None
    start = int(np.searchsorted(used.time, since))
    span = float(used.time[-1] - used.time[min(start, len(used) - 1)])
    return Cores(count.last, min(1.0, _grown(used, since) / span / count.last), True) if span > 0 else None


def cpu_busy(node: Node, since: float) -> float | None:
    """Return the share of the machine's CPU time that was not idle since a moment, or None where it was not sampled."""
    total = idle = 0.0
    for labels, series in node.windows("system_cpu_seconds_total"):
        if not len(series) or series.time[0] > since:
            return None
        spent = _grown(series, since)
        total += spent
        if labels and labels[-1] in ("idle", "iowait"):
            idle += spent
    return 1 - idle / total if total > 0 else None


def _grown(series: Series, since: float) -> float:
    start = int(np.searchsorted(series.time, since))
    return float(series.value[-1] - series.value[min(start, len(series) - 1)])
