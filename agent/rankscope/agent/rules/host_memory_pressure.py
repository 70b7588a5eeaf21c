"""The host's memory, a limit on it, or /dev/shm is nearly full."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._filling import filling, gigabytes, minutes
from rankscope.agent.rules._fresh import fresh
from rankscope.agent.rules._pauses import steps_of_attempt
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node, Run

FRESH = 60.0  # seconds
_WARMUP = 50  # steps
_STARTING = 0.2  # of the memory, below which a forecast is worth telling while a rank starts
_WORKERS = "fewer DataLoader workers or a smaller prefetch_factor; do not hold the data set in each worker"


@dataclass(eq=False)
class HostMemoryPressure:
    """Host memory is short: little is available, or none soon, or tasks wait for it, or a rank is near its limit.

    Fires when less than `available` of the memory is left, when at its present use there will be none within `horizon`,
    when all tasks, or those of a rank's cgroup, waited for memory for `stalled` of the last minute, when a rank's
    cgroup is at `limit` of its own limit, or when a /dev/shm, over which DataLoader workers hand their batches, is full
    to `shm`. While a rank makes its first 50 steps the forecast is told only where less than 20 % is left: models and
    data are read into memory.

    Needs `system_memory_available_bytes`.

    Defaults: the kernel reclaims in earnest below 5 %; 10 % of full stalls is where systemd-oomd's users set its limit.
    """

    scope: ClassVar[Literal["run", "node"]] = "node"
    needs: ClassVar[tuple[str, ...]] = ("system_memory_available_bytes",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=lambda: Span(seconds=10.0))
    available: float = 0.05
    horizon: Seconds = 600.0
    window: Seconds = 300.0
    stalled: float = 0.1
    limit: float = 0.95
    shm: float = 0.9

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        left = _fresh(node, now, "system_memory_available_bytes")
        if left is None:
            return Incomplete("the host's memory is not sampled")
        return (
            *self._memory(node, left, now),
            *(tuple(self._limits(node, now)) or self._waits(node, now)),
            *self._shm(node, now),
        )

    def _memory(self, node: Node, left: Series, now: float) -> Iterator[Finding]:
        size = _fresh(node, now, "system_memory_size_bytes")
        share = left.last / size.last if size is not None and size.last else 1.0
        start = int(np.searchsorted(left.time, now - self.window))
        long_enough = left.time[0] <= now - 0.9 * self.window
        trend = filling(left.time[start:], -left.value[start:], 0.0) if long_enough else None
        trend = None if share > _STARTING and _starting(node) else trend
        waited = _waited(_fresh(node, now, "system_pressure_seconds_total", "memory", "full"), now)
        if share < self.available:
            how = f"{share:.1%} of the memory is available, {gigabytes(left.last)}"
        elif trend is not None and trend.seconds <= self.horizon:
            pace = f"{gigabytes(60 * trend.rate)}/min"
            how = f"{gigabytes(left.last)} are available, at {pace} none in {minutes(trend.seconds)}"
        elif waited >= self.stalled:
            how = f"all tasks waited for memory for {waited:.0%} of the last minute"
        else:
            return
        grave: Severity | None = "critical" if share < self.available / 2.5 else None
        causes = (Cause("the processes need more than there is", _largest(node), _WORKERS),)
        yield Finding(
            f"host memory: {how}", time=now, value=share, severity=grave, causes=causes, labels={"memory": "host"}
        )

    def _limits(self, node: Node, now: float) -> Iterator[Finding]:
        for labels, series in node.windows("rank_memory_limit_used_bytes"):
            limit = _fresh(node, now, "rank_memory_limit_bytes", *labels)
            if limit is None or not len(series) or not limit.last or series.last < self.limit * limit.last:
                continue
            share = series.last / limit.last
            how = f"{share:.0%} of its cgroup's memory limit of {gigabytes(limit.last)} is used"
            cause = Cause("the kernel kills a process of this group next", "memory.current", _WORKERS)
            yield _of_group(labels, how, now, share, cause)

    def _waits(self, node: Node, now: float) -> Iterator[Finding]:
        """Judge control groups that wait while the machine as a whole does not."""
        if _waited(_fresh(node, now, "system_pressure_seconds_total", "memory", "full"), now) >= self.stalled:
            return
        for labels, series in node.windows("rank_pressure_seconds_total"):
            waited = _waited(series, now) if labels[2:] == ("memory", "full") and fresh(series, now, FRESH) else 0.0
            if waited >= self.stalled:
                how = f"its cgroup waited for memory for {waited:.0%} of the last minute"
                cause = Cause("its cgroup is at a limit of its own", "memory.pressure", _WORKERS)
                yield _of_group(labels, how, now, waited, cause)

    def _shm(self, node: Node, now: float) -> Iterator[Finding]:
        """Judge the node's own, and those of containers, which are as small as 64 MiB."""
        for kind in ("system", "rank"):
            for labels, used in node.windows(f"{kind}_shm_used_bytes"):
                size = _fresh(node, now, f"{kind}_shm_size_bytes", *labels)
                if size is None or not size.last or not len(used) or used.last < self.shm * size.last:
                    continue
                share = used.last / size.last
                whose = f" of rank {labels[1]} of {labels[0]}" if labels else ""
                yield Finding(
                    f"/dev/shm{whose}: {share:.0%} of {gigabytes(size.last)} are used",
                    time=now,
                    value=share,
                    causes=(
                        Cause(
                            "DataLoader workers hand their batches over /dev/shm and die of SIGBUS when it is full",
                            f"{gigabytes(size.last - used.last)} are left",
                            "run the container with --shm-size or --ipc=host; remove what dead processes left there",
                        ),
                    ),
                    labels={"memory": "shm"},
                    rank=int(labels[1]) if labels and labels[1].isdigit() else None,
                )


def _of_group(labels: tuple[str, ...], how: str, now: float, value: float, cause: Cause) -> Finding:
    """Return what is found of the control group of a rank; `labels` begin with its run and number."""
    run, rank = labels[:2]
    return Finding(
        f"rank {rank} of {run}: {how}",
        time=now,
        value=value,
        causes=(cause,),
        labels={"memory": "limit"},
        rank=int(rank) if rank.isdigit() else None,
    )


def _waited(series: Series | None, now: float) -> float:
    """Return for which share of the last minute all tasks waited; 0 where it was not sampled for so long."""
    if series is None or series.time[0] > now - 55.0:
        return 0.0
    start = int(np.searchsorted(series.time, now - 60.0))
    span = float(series.time[-1] - series.time[start])
    return float(series.value[-1] - series.value[start]) / span if span > 0 else 0.0


def _starting(node: Node) -> bool:
    return any(rank.goodbye is None and steps_of_attempt(rank) < _WARMUP for _, rank in node.ranks())


def _fresh(node: Node, now: float, metric: str, *labels: str) -> Series | None:
    series = node.window(metric, *labels)
    return series if fresh(series, now, FRESH) else None


def _largest(node: Node) -> str:
    """Name the rank that holds most."""
    held = node.latest("rank_resident_memory_bytes")
    if not held:
        return "no rank's processes are known"
    (run, rank), most = max(held.items(), key=lambda each: each[1])
    return f"rank {rank} of {run} holds most: {gigabytes(most)}, its workers included"
