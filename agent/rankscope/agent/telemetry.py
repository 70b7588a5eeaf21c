"""The agent's own metrics: what it costs, what it drops, and whether its samplers see."""

from __future__ import annotations

import contextlib
import glob
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import psutil

from rankscope.agent.model import Metric, Sample
from rankscope.agent.runs.state import Node

BUILD_INFO = Metric(
    "agent_build_info",
    "info",
    "Versions of the agent and of what it reads.",
    ("version", "python_version", "nvml_version", "driver_version", "cuda_version"),
    source="importlib.metadata, NVML",
)
START_TIME = Metric("agent_start_time_seconds", "gauge", "Unix time at which the agent started.", unit="seconds")
DROPPED = Metric("agent_dropped_total", "counter", "What the agent had to drop or refuse, by reason.", ("reason",))
SERIES = Metric("agent_series", "gauge", "Series on the agent's newest page of metrics.")
JUMPS = Metric(
    "agent_clock_jumps_total",
    "counter",
    "How often this machine's wall clock was set by more than a second.",
    ("direction",),
    source="CLOCK_REALTIME against CLOCK_MONOTONIC",
)
CPU = Metric(
    "agent_cpu_seconds_total",
    "counter",
    "CPU time that the agent and its child processes used.",
    unit="seconds",
    source="psutil",
)
MEMORY = Metric(
    "agent_resident_memory_bytes",
    "gauge",
    "Memory that the agent and its child processes hold.",
    unit="bytes",
    source="psutil",
)
SAMPLER_UP = Metric("sampler_up", "gauge", "1 when the sampler's newest collection succeeded.", ("sampler",))
SAMPLER_DURATION = Metric(
    "sampler_duration_seconds", "gauge", "Duration of the newest collection.", ("sampler",), "seconds"
)
SAMPLER_LAST_SUCCESS = Metric(
    "sampler_last_success_timestamp_seconds",
    "gauge",
    "Unix time of the newest good collection.",
    ("sampler",),
    "seconds",
)
SAMPLER_ERRORS = Metric("sampler_errors_total", "counter", "Collections that failed.", ("sampler",))

METRICS = (
    BUILD_INFO,
    START_TIME,
    DROPPED,
    SERIES,
    JUMPS,
    CPU,
    MEMORY,
    SAMPLER_UP,
    SAMPLER_DURATION,
    SAMPLER_LAST_SUCCESS,
    SAMPLER_ERRORS,
)

# Exported as 0 from the start: a counter that is born with a value shows no increase.
REASONS = (
    "bad_payload",  # a rank's message that no correct SDK sends
    "gap",  # records that its rank skipped
    "record_error",  # a record that cannot be written as it is
    "series_limit",
    "series_budget",
    "duplicate_series",
    "bad_sample",
    "user_alert_limit",
)


def agent_version() -> str:
    """Return the version of the distribution, "unknown" where it was not installed."""
    try:
        return version("rankscope")
    except PackageNotFoundError:
        return "unknown"


@dataclass(slots=True)
class SamplerHealth:
    """How the collections of one sampler went. Durations are seconds, times Unix seconds."""

    up: bool = False
    seconds: float = 0.0
    last_success: float | None = None
    errors: int = 0
    failure: str | None = None  # why the newest collection failed


@dataclass(slots=True)
class Telemetry:
    """Counts what the agent does; all calls come from the agent's event loop."""

    started: float = field(default_factory=time.time)
    samplers: dict[str, SamplerHealth] = field(default_factory=dict[str, SamplerHealth])
    series: int = 0
    _dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    _seen: dict[tuple[str, str, int], dict[str, int]] = field(
        default_factory=dict[tuple[str, str, int], dict[str, int]]
    )
    _process: psutil.Process = field(default_factory=psutil.Process)
    _seconds: float = 0.0

    def dropped(self, reason: str, count: int = 1) -> None:
        """Count something that was dropped or refused; `reason` is of a closed set."""
        self._dropped[reason] = self._dropped.get(reason, 0) + count

    def exposed(self, series: int, refused: Mapping[str, int]) -> None:
        """A page of metrics was rendered; `refused` counts series left out since the start, by reason."""
        self.series = series
        self._dropped.update(refused)

    def drops(self) -> Mapping[str, int]:
        return dict(self._dropped)

    def sampled(self, sampler: str, seconds: float, failure: str | None, now: float) -> None:
        """A collection ended after `seconds`; `failure` says why it failed, None that it did not."""
        health = self.samplers.setdefault(sampler, SamplerHealth())
        health.up = failure is None
        health.seconds = seconds
        health.failure = failure
        if failure is None:
            health.last_success = now
        else:
            health.errors += 1

    def forget(self, sampler: str) -> None:
        """A sampler is no longer run."""
        self.samplers.pop(sampler, None)

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds."""
        self.started += seconds
        for health in self.samplers.values():
            if health.last_success is not None:
                health.last_success += seconds

    def samples(self, node: Node) -> Iterator[Sample]:
        """Yield the agent's own samples."""
        driver = _driver(node)
        yield Sample(BUILD_INFO, 1.0, (agent_version(), platform.python_version(), *driver))
        yield Sample(START_TIME, self.started)
        self._gather(node)
        for reason, count in self._dropped.items():
            yield Sample(DROPPED, count, (reason,))
        yield Sample(SERIES, self.series)
        for direction, count in node.clock.jumps.items():
            yield Sample(JUMPS, count, (direction,))
        cpu, memory = self._cost()
        yield Sample(CPU, cpu)
        yield Sample(MEMORY, memory)
        for name, health in self.samplers.items():
            yield Sample(SAMPLER_UP, float(health.up), (name,))
            yield Sample(SAMPLER_DURATION, health.seconds, (name,))
            if health.last_success is not None:
                yield Sample(SAMPLER_LAST_SUCCESS, health.last_success, (name,))
            yield Sample(SAMPLER_ERRORS, health.errors, (name,))

    def _cost(self) -> tuple[float, float]:
        """Return CPU seconds and resident bytes of the agent and its children, such as the one that holds NVML."""
        own = self._process.cpu_times()
        seconds, resident = own.user + own.system, self._process.memory_info().rss
        seconds += own.children_user + own.children_system  # of those that have ended
        for pid in _children():
            with contextlib.suppress(psutil.Error):
                child = psutil.Process(pid)
                times = child.cpu_times()
                resident += child.memory_info().rss
                seconds += times.user + times.system
        self._seconds = max(seconds, self._seconds)  # one that ends just now is in neither
        return self._seconds, resident

    def _gather(self, node: Node) -> None:
        """Count what ranks were refused, so that the count outlives the ranks."""
        known: dict[tuple[str, str, int], dict[str, int]] = {}
        for _, rank in node.ranks():
            before = self._seen.get(rank.info.key, {})
            for reason, count in rank.refused.items():
                self.dropped(reason, max(0, count - before.get(reason, 0)))
            known[rank.info.key] = dict(rank.refused)
        self._seen = known


def _children() -> Iterator[int]:
    """Yield the pids of the agent's children; psutil reads every process of the machine for them."""
    for path in glob.glob("/proc/self/task/*/children"):
        with contextlib.suppress(OSError), open(path) as file:
            yield from map(int, file.read().split())


def _driver(node: Node) -> tuple[str, str, str]:
    """Return the versions of NVML, driver and CUDA as the GPU sampler saw them last, "" where it saw none."""
    for sample in node.samples.get("gpu", ()):
        if sample.metric.name == "gpu_driver_info":
            labels = dict(zip(sample.metric.labels, sample.labels, strict=True))
            return labels.get("nvml_version", ""), labels.get("driver_version", ""), labels.get("cuda_version", "")
    return "", "", ""
