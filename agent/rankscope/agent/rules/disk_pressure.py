"""A file system is nearly full, or can no longer be written or asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._filling import filling, gigabytes, minutes
from rankscope.agent.rules._fresh import fresh
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node, Run

FRESH = 120.0  # seconds


@dataclass(eq=False)
class DiskPressure:
    """A file system has little space or few inodes left, will be full soon, or turned read-only; a disk is saturated.

    One that answered before and does no longer, as NFS whose server is gone, is told, too: whoever touches it hangs.
    Little space: less than `available` of it and less than `least` bytes. Soon: within `horizon` at the growth of the
    last `window`. A disk is saturated when it is busy all of the last minute and an operation takes `wait` or longer.

    Needs `system_filesystem_avail_bytes`.

    Defaults: 5 % is what ext4 keeps for root; 50 GB is a checkpoint of a middling model; 0.2 s an operation is far
    above what any healthy disk shows.
    """

    scope: ClassVar[Literal["run", "node"]] = "node"
    needs: ClassVar[tuple[str, ...]] = ("system_filesystem_avail_bytes",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=lambda: Span(seconds=30.0))
    available: float = 0.05
    least: float = 50e9  # bytes
    inodes: float = 0.02
    horizon: Seconds = 3600.0
    window: Seconds = 1800.0
    wait: Seconds = 0.2
    _answered: set[str] = field(default_factory=set[str], init=False, repr=False)  # those that once did
    _written: set[str] = field(default_factory=set[str], init=False, repr=False)  # those that once could be

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        there = [
            (point, series)
            for (point,), series in node.windows("system_filesystem_avail_bytes")
            if fresh(series, now, FRESH)
        ]
        self._answered |= {point for point, _ in there}
        hanging = list(self._hanging(node, now))
        if not there and not hanging:
            return Incomplete("no file system is sampled")
        findings = [found for point, series in there for found in self._file_system(node, point, series, now)]
        return (*hanging, *findings, *self._disks(node, now))

    def _hanging(self, node: Node, now: float) -> Iterator[Finding]:
        for (point,), mounted in node.windows("system_filesystem_readonly"):
            if point not in self._answered or node.window("system_filesystem_avail_bytes", point) is not None:
                continue
            if fresh(mounted, now, FRESH):
                yield self._finding(
                    point,
                    f"{point} does not answer",
                    1.0,
                    now,
                    "its server is gone, or the way to it",
                    "it is mounted, and whoever asks for its space waits",
                    "see dmesg and the server; a checkpoint that is written to it hangs until it is back",
                    "hangs",
                    None,
                )

    def _file_system(self, node: Node, point: str, left: Series, now: float) -> Iterator[Finding]:
        readonly = node.window("system_filesystem_readonly", point)
        if readonly is not None and len(readonly) and not readonly.value.min():
            self._written.add(point)
        if readonly is not None and len(readonly) and readonly.last and point in self._written:
            yield self._finding(
                point,
                f"{point} turned read-only",
                1.0,
                now,
                "the kernel found an error on it",
                "it could be written before",
                "see dmesg; check the file system before it is used again",
                "readonly",
                "critical",
            )
            return
        if readonly is not None and len(readonly) and readonly.last:
            return  # an image of a data set is full by design
        size = node.window("system_filesystem_size_bytes", point)
        share = left.last / size.last if size is not None and len(size) and size.last else 1.0
        start = int(np.searchsorted(left.time, now - self.window))
        long_enough = left.time[0] <= now - 0.5 * self.window
        trend = filling(left.time[start:], -left.value[start:], 0.0) if long_enough else None
        fix = "remove old checkpoints and caches, keep fewer of them, or write elsewhere"
        if share < self.available and left.last < self.least:
            grave: Severity | None = "critical" if share < self.available / 5 else None
            yield self._finding(
                point,
                f"{point}: {share:.1%} of the space is left, {gigabytes(left.last)}",
                share,
                now,
                "checkpoints, caches or logs filled it",
                f"{gigabytes(left.last)} are available",
                fix,
                "space",
                grave,
            )
        elif trend is not None and trend.seconds <= self.horizon:
            yield self._finding(
                point,
                f"{point} is full in {minutes(trend.seconds)}",
                share,
                now,
                "something writes to it all the time",
                f"{gigabytes(60 * trend.rate)}/min, {gigabytes(left.last)} are left",
                fix,
                "space",
                None,
            )
        free = node.window("system_filesystem_inodes_avail_ratio", point)
        if free is not None and len(free) and free.last < self.inodes:
            yield self._finding(
                point,
                f"{point}: {free.last:.1%} of the inodes are left",
                free.last,
                now,
                "too many small files",
                "space alone does not help",
                "remove small files, or pack the data set into archives",
                "inodes",
                None,
            )

    def _disks(self, node: Node, now: float) -> Iterator[Finding]:
        for (device,), busy in node.windows("system_disk_busy_seconds_total"):
            share = _rate(busy, now)
            if share is None or share < 0.95:
                continue
            for direction in ("read", "write"):
                seconds = node.window("system_disk_operation_seconds_total", device, direction)
                count = node.window("system_disk_operations_total", device, direction)
                waited, made = _rate(seconds, now), _rate(count, now)
                if waited is None or not made or waited / made < self.wait:
                    continue
                yield self._finding(
                    device,
                    f"disk {device} is saturated: a {direction} takes {waited / made:.2f} s",
                    waited / made,
                    now,
                    "it is asked for more than it can do",
                    f"busy {share:.0%} of the last minute at {made:.0f} {direction}s/s",
                    "copy the data set to a faster disk, read larger pieces, fewer workers",
                    f"{direction}s",
                    None,
                )

    def _finding(
        self,
        where: str,
        summary: str,
        value: float,
        now: float,
        cause: str,
        evidence: str,
        fix: str,
        problem: str,
        severity: Severity | None,
    ) -> Finding:
        labels = (
            {"mountpoint": where, "problem": problem}
            if where.startswith("/")
            else {"device": where, "problem": problem}
        )
        return Finding(
            summary, time=now, value=value, severity=severity, causes=(Cause(cause, evidence, fix),), labels=labels
        )


def _rate(series: Series | None, now: float) -> float | None:
    """Return a counter's growth a second over the last minute."""
    if series is None or not fresh(series, now, FRESH):
        return None
    start = max(0, int(np.searchsorted(series.time, now - 60.0)) - 1)
    span = float(series.time[-1] - series.time[start])
    return float(series.value[-1] - series.value[start]) / span if span >= 30.0 else None
