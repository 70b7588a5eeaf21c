"""CPU time of the whole node, how many CPUs there are, and whether they were slowed down."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._rows import Row, Values, collect, metrics

_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_TICKS = os.sysconf("SC_CLK_TCK")
_BACK = 60.0  # seconds, at most: a count that falls by more began anew
_CPU = re.compile(r"^cpu\d+ ", re.MULTILINE)


def _seconds(files: Files) -> Values:
    """Guest time is part of user time already (proc_stat(5)) and not given apart."""
    words = files.text("proc/stat").split("\n", 1)[0].split()[1:]
    return [((mode,), int(ticks) / _TICKS) for mode, ticks in zip(_MODES, words, strict=False)]


def _blocked(files: Files) -> Values:
    return files.table("proc/stat")["procs_blocked"]


def _throttles(files: Files) -> Values:
    """Core counts are summed over CPUs; a package's count is the same on each of its CPUs."""
    found = files.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    packages: dict[str, int] = {}
    for path in found:
        folder = path.rsplit("/", 2)[0]
        package = files.text(f"{folder}/topology/physical_package_id")
        packages[package] = files.number(f"{folder}/thermal_throttle/package_throttle_count")
    if not found:
        return None
    return [(("core",), sum(files.number(path) for path in found)), (("package",), sum(packages.values()))]


ROWS: tuple[Row[Files], ...] = (
    Row(
        Metric("system_cpu_seconds_total", "counter", "Host CPU time by mode, all CPUs.", ("mode",), "s", "/proc/stat"),
        _seconds,
    ),
    Row(
        Metric("system_cpus", "gauge", "Logical CPUs.", unit="count", source="/proc/stat"),
        lambda files: len(_CPU.findall(files.text("proc/stat"))) or None,
    ),
    Row(
        Metric("system_load1", "gauge", "1 min load average.", unit="load", source="/proc/loadavg"),
        lambda files: float(files.text("proc/loadavg").split()[0]),
    ),
    Row(
        Metric(
            "system_processes_blocked",
            "gauge",
            "Processes in uninterruptible sleep, waiting for a device.",
            unit="count",
            source="/proc/stat procs_blocked",
        ),
        _blocked,
    ),
    Row(
        Metric(
            "system_cpu_throttles_total",
            "counter",
            "Times the CPU was slowed down because of heat; scope=core|package.",
            ("scope",),
            "count",
            "/sys/devices/system/cpu/cpu*/thermal_throttle",
        ),
        _throttles,
    ),
)


@dataclass
class Cpu:
    """CPU time by mode, steal included, load, blocked processes, and slow-downs because of heat."""

    interval: Seconds = 2.0
    root: str = "/"
    _most: dict[tuple[str, ...], float] = field(default_factory=dict[tuple[str, ...], float], init=False, repr=False)

    metrics: ClassVar[tuple[Metric, ...]] = metrics(ROWS)

    def sample(self, node: Node) -> Iterator[Sample]:
        """Yield the figures. The kernel lets idle and iowait go back a little (proc_stat(5)); a counter may not."""
        for sample in collect(ROWS, Files(self.root)):
            if sample.metric.kind == "counter" and isinstance(sample.value, float):
                key = (sample.metric.name, *sample.labels)
                most = self._most.get(key, 0.0)
                value = self._most[key] = most if most - _BACK < sample.value < most else sample.value
                yield sample._replace(value=value)
            else:
                yield sample

    def close(self) -> None:
        """Nothing is held."""
