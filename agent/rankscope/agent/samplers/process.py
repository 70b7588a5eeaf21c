"""The processes of the ranks: which GPU, container and pod each runs in, and what its process tree uses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.devices import RANK_INFO, Device, Devices
from rankscope.agent.runs.state import Node, Rank
from rankscope.agent.samplers._linux import cgroup, pressure, workload
from rankscope.agent.samplers._linux.deaths import Deaths
from rankscope.agent.samplers._linux.engine import Engine
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.kmsg import KernelLog
from rankscope.agent.samplers._linux.processes import Family, Finder, Stat, read_stat
from rankscope.agent.samplers._rows import Labelled, Row, Values, collect, metrics

_RANK = ("run", "rank")


@dataclass(slots=True)
class _Look:
    """One rank's processes at one time."""

    files: Files
    rank: Rank
    stat: Stat
    tree: list[Stat]  # the rank itself first
    helpers: set[int]  # processes of the SDK in the tree
    device: Device | None
    workload: workload.Workload
    group: str  # its control group

    @property
    def key(self) -> tuple[str, str]:
        return self.rank.info.key.run, str(self.rank.info.key.rank)

    @property
    def workers(self) -> list[Stat]:
        return [stat for stat in self.tree[1:] if stat.pid not in self.helpers]

    def one(self, value: float | None) -> Values:
        return None if value is None else [(self.key, value)]


def _info(look: _Look) -> Values:
    device = look.device or Device("", "")
    own = look.workload
    places = (own.container, own.namespace, own.pod)
    labels = (*look.key, str(look.rank.info.local_rank), device.gpu, device.uuid, str(look.stat.pid), *places)
    return [(labels, 1.0)]


def _container_info(look: _Look) -> Values:
    own = look.workload
    if not own.container_id:
        return None
    return [((*look.key, own.container, own.container_id, own.image, own.service, own.pod_uid), 1.0)]


def _files_limit(look: _Look) -> Values:
    for line in look.files.text(f"proc/{look.stat.pid}/limits").splitlines():
        if line.startswith("Max open files"):
            return look.one(float(line.split()[3]))  # ValueError where it is `unlimited`: absent
    return None


def _cpus(look: _Look) -> Values:
    """Give the smaller of the affinity mask and the groups' limits."""
    limit = cgroup.cpus(look.files, look.group)
    allowed: float | None = None
    for line in look.files.text(f"proc/{look.stat.pid}/status").splitlines():
        if line.startswith("Cpus_allowed:"):
            allowed = int(line.split()[1].replace(",", ""), 16).bit_count()
    return look.one(min((each for each in (limit, allowed) if each), default=None))


def _memory_limit(look: _Look) -> Values:
    memory = cgroup.memory(look.files, look.group)
    return look.one(memory.limit if memory else None)


def _memory_limit_used(look: _Look) -> Values:
    memory = cgroup.memory(look.files, look.group)
    return look.one(memory.used if memory else None)


def _pressure(look: _Look) -> Labelled:
    for resource in ("cpu", "memory", "io"):
        for kind, seconds in pressure.stalls(cgroup.pressure_text(look.files, look.group, resource)):
            yield (*look.key, resource, kind), seconds


def _gauge(name: str, meaning: str, unit: str, source: str = "/proc/PID/stat, process tree") -> Metric:
    return Metric(name, "gauge", meaning, _RANK, unit, source)


def _counter(name: str, meaning: str, unit: str, source: str = "/proc/PID/stat, process tree") -> Metric:
    return Metric(name, "counter", meaning, _RANK, unit, source)


CPU_SECONDS = _counter("rank_cpu_seconds_total", "CPU time of the rank's process tree.", "s")
WORKER_CPU_SECONDS = _counter(
    "rank_worker_cpu_seconds_total", "CPU time of the rank's child processes: DataLoader workers and the like.", "s"
)

OOM_TIME = _gauge(
    "rank_oom_kill_timestamp_seconds",
    "Unix time at which the kernel killed a process of the rank for the lack of memory.",
    "s",
    "/dev/kmsg, cgroup memory.events",
)
OOM_RESIDENT = _gauge(
    "rank_oom_kill_resident_bytes", "What that process held then.", "bytes", "/dev/kmsg, anon-rss of the killed process"
)

ROWS: tuple[Row[_Look], ...] = (
    Row(RANK_INFO, _info),
    Row(
        Metric(
            "rank_container_info",
            "info",
            "The container that a rank runs in.",
            (
                *_RANK,
                "workload_container",
                "workload_container_id",
                "workload_image",
                "workload_service",
                "workload_pod_uid",
            ),
            source="/proc/PID/cgroup, the container engine",
        ),
        _container_info,
    ),
    Row(
        _gauge(
            "rank_resident_memory_bytes", "Resident memory of the process tree, shared pages once a process.", "bytes"
        ),
        lambda look: look.one(sum(stat.resident for stat in look.tree)),
    ),
    Row(
        _gauge("rank_workers", "Child processes of the rank: DataLoader workers and the like.", "count"),
        lambda look: look.one(len(look.workers)),
    ),
    Row(
        _gauge("rank_threads", "Threads of the rank's process tree.", "count"),
        lambda look: look.one(sum(stat.threads for stat in look.tree)),
    ),
    Row(
        _gauge("rank_open_files", "Files that the rank's own process has open.", "count", "/proc/PID/fd"),
        lambda look: look.one(len(os.listdir(look.files.path(f"proc/{look.stat.pid}/fd")))),
    ),
    Row(
        _gauge("rank_open_files_limit", "Files that a process of the rank may have open.", "count", "/proc/PID/limits"),
        _files_limit,
    ),
    Row(
        _gauge("rank_cpus", "CPUs that the rank may use: affinity and cgroup limits.", "count", "status, cpu.max"),
        _cpus,
    ),
    Row(
        _counter(
            "rank_cpu_throttled_seconds_total", "Time its cgroup's CPU limit held the rank back.", "s", "cpu.stat"
        ),
        lambda look: look.one(cgroup.throttled_seconds(look.files, look.group)),
    ),
    Row(
        _gauge(
            "rank_memory_limit_bytes", "The cgroup memory limit that leaves the rank the least.", "bytes", "memory.max"
        ),
        _memory_limit,
    ),
    Row(
        _gauge(
            "rank_memory_limit_used_bytes",
            "Memory used under that limit by all in the cgroup, without file cache that can be dropped.",
            "bytes",
            "memory.current, memory.stat",
        ),
        _memory_limit_used,
    ),
    Row(
        Metric(
            "rank_pressure_seconds_total",
            "counter",
            "Time that tasks of the rank's cgroup stalled; resource=cpu|memory|io, kind=some|full.",
            (*_RANK, "resource", "kind"),
            "s",
            "cgroup *.pressure",
        ),
        _pressure,
    ),
    Row(
        _counter("rank_oom_kills_total", "OOM kills in the rank's cgroup.", "count", "cgroup memory.events oom_kill"),
        lambda look: look.one(cgroup.oom_kills(look.files, look.group)),
    ),
)


@dataclass
class Process:
    """The process tree of each rank: CPU, memory, workers, files, limits, and what it runs in."""

    interval: Seconds = 5.0
    root: str = "/"
    _family: Family = field(default_factory=Family, init=False, repr=False)
    _finder: Finder = field(default_factory=Finder, init=False, repr=False)
    _workloads: dict[int, workload.Workload] = field(
        default_factory=dict[int, workload.Workload], init=False, repr=False
    )
    _helpers: dict[int, tuple[int, bool]] = field(default_factory=dict[int, tuple[int, bool]], init=False, repr=False)
    _engine: Engine = field(init=False, repr=False)
    _log: KernelLog | None = field(default=None, init=False, repr=False)
    _deaths: Deaths = field(default_factory=Deaths, init=False, repr=False)
    _cpu: dict[tuple[int, str], float] = field(default_factory=dict[tuple[int, str], float], init=False, repr=False)

    metrics: ClassVar[tuple[Metric, ...]] = (
        *metrics(ROWS),
        CPU_SECONDS,
        WORKER_CPU_SECONDS,
        OOM_TIME,
        OOM_RESIDENT,
    )

    def __post_init__(self) -> None:
        self._engine = Engine(self.root)

    def sample(self, node: Node) -> Iterator[Sample]:
        now = time.time()
        files = Files(self.root)
        if self._log is None:
            self._log = KernelLog(self.root)
        everyone = [rank for run in tuple(node.runs.values()) for rank in tuple(run.ranks.values())]
        ranks = [rank for rank in everyone if rank.goodbye is None]
        found = [(rank, stat) for rank in ranks if (stat := self._finder.find(files, rank.info, now)) is not None]
        self._forget({rank.info.session for rank in everyone})
        if found:
            there = self._family.look(files)
            self._helpers = {pid: known for pid, known in self._helpers.items() if pid in there}
            devices = Devices(node)
            for rank, stat in found:
                look = self._look(files, rank, stat, devices)
                self._deaths.alive(rank.info.session, [each.pid for each in look.tree], look.group)
                yield from collect(ROWS, look)
                yield from self._cpu_seconds(look)
        self._deaths.look(files, {rank.info.session for rank, _ in found}, self._log.read(), now)
        for rank in everyone:
            yield from self._death(rank)

    def _death(self, rank: Rank) -> Iterator[Sample]:
        death = self._deaths.of(rank.info.session)
        if death is not None:
            key = (rank.info.key.run, str(rank.info.key.rank))
            yield Sample(OOM_TIME, death.time, key)
            if death.resident:
                yield Sample(OOM_RESIDENT, float(death.resident), key)

    def _look(self, files: Files, rank: Rank, stat: Stat, devices: Devices) -> _Look:
        session = rank.info.session
        own = self._workloads.get(session)
        if own is None:
            own = workload.of_process(files, stat.pid)
            named = self._engine.name(own, time.time())
            if named is not own or not own.container_id or own.pod_uid:
                self._workloads[session] = named  # else asked again: the engine may answer later
            own = named
        pids = self._family.descendants(stat.pid)[1:]
        tree = [stat, *(child for pid in pids if (child := read_stat(files, pid)) is not None)]
        helpers = {child.pid for child in tree[1:] if self._is_helper(files, child)}
        group = cgroup.path_of(files, stat.pid) or "/"
        return _Look(files, rank, stat, tree, helpers, devices.of(rank), own, group)

    def _is_helper(self, files: Files, stat: Stat) -> bool:
        known = self._helpers.get(stat.pid)
        if known is None or known[0] != stat.start:
            try:
                known = (stat.start, "rankscope.sdk" in files.text(f"proc/{stat.pid}/cmdline").replace("\0", " "))
            except OSError:
                known = (stat.start, False)
            self._helpers[stat.pid] = known
        return known[1]

    def _cpu_seconds(self, look: _Look) -> Iterable[Sample]:
        """Yield CPU time, which never goes back: the kernel forgets that of a child that nobody waited for."""
        totals = {
            CPU_SECONDS: sum((stat.cpu for stat in look.tree), 0.0),
            WORKER_CPU_SECONDS: sum((stat.cpu for stat in look.workers), 0.0),
        }
        for metric, total in totals.items():
            key = (look.rank.info.session, metric.name)
            self._cpu[key] = max(total, self._cpu.get(key, 0.0))
            yield Sample(metric, self._cpu[key], look.key)

    def _forget(self, sessions: set[int]) -> None:
        """Drop what is known of sessions that ended."""
        self._finder.keep(sessions)
        self._workloads = {session: own for session, own in self._workloads.items() if session in sessions}
        self._cpu = {key: total for key, total in self._cpu.items() if key[0] in sessions}
        self._deaths.keep(sessions)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
