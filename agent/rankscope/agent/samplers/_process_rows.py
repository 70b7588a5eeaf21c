"""What is read of a rank's processes: one row, one metric."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rankscope.agent.model import Metric
from rankscope.agent.runs.devices import RANK_INFO, Device
from rankscope.agent.runs.rank import Rank
from rankscope.agent.samplers._linux import affinity, cgroup, pressure
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.processes import Stat
from rankscope.agent.samplers._linux.workload import Workload
from rankscope.agent.samplers._rows import Labelled, Row, Values

_RANK = ("run", "rank")


@dataclass(slots=True)
class Look:
    """One rank's processes at one time."""

    files: Files
    rank: Rank
    stat: Stat
    tree: list[Stat]  # the rank itself first
    helpers: set[int]  # processes of the SDK in the tree
    device: Device | None
    workload: Workload
    group: str  # its control group
    cpus: affinity.Cpus
    confined: affinity.Confined

    @property
    def key(self) -> tuple[str, str]:
        return self.rank.info.key.run, str(self.rank.info.key.rank)

    @property
    def workers(self) -> list[Stat]:
        return [stat for stat in self.tree[1:] if stat.pid not in self.helpers]

    def one(self, value: float | None) -> Values:
        return None if value is None else [(self.key, value)]


def _info(look: Look) -> Values:
    device = look.device or Device("", "")
    own = look.workload
    places = (own.container, own.namespace, own.pod)
    labels = (*look.key, str(look.rank.info.local_rank), device.gpu, device.uuid, str(look.stat.pid), *places)
    return [(labels, 1.0)]


def _container_info(look: Look) -> Values:
    own = look.workload
    if not own.container_id:
        return None
    return [((*look.key, own.container, own.container_id, own.image, own.service, own.pod_uid), 1.0)]


def _files_limit(look: Look) -> Values:
    for line in look.files.text(f"proc/{look.stat.pid}/limits").splitlines():
        if line.startswith("Max open files"):
            return look.one(float(line.split()[3]))  # ValueError where it is `unlimited`: absent
    return None


def _cpus(look: Look) -> Values:
    """Give the smaller of the affinity mask and the groups' limits."""
    limit = cgroup.cpus(look.files, look.group)
    allowed = len(affinity.allowed(look.files, look.stat.pid, look.cpus))
    return look.one(min((each for each in (limit, allowed) if each), default=None))


def _cpu_limit_used(look: Look) -> Values:
    """Give the time used under the quota, or that of the CPUs that the rank is bound to (as Slurm binds jobs).

    Of the two the tighter one, as `_cpus` does.
    """
    quota, own = cgroup.cpus(look.files, look.group), affinity.allowed(look.files, look.stat.pid, look.cpus)
    if quota is not None and quota <= (len(own) or quota):
        return look.one(cgroup.cpu_time(look.files, look.group, "usage"))
    return look.one(look.confined.look(own, look.cpus))


def _memory_limit(look: Look) -> Values:
    memory = cgroup.memory(look.files, look.group)
    return look.one(memory.limit if memory else None)


def _memory_limit_used(look: Look) -> Values:
    memory = cgroup.memory(look.files, look.group)
    return look.one(memory.used if memory else None)


def _shm(look: Look) -> os.statvfs_result | None:
    """Return the space of the /dev/shm that the rank sees, None where it is the agent's own."""
    path = f"proc/{look.stat.pid}/root/dev/shm"
    return look.files.space(path) if look.files.device(path) != look.files.device("dev/shm") else None


def _shm_used(look: Look) -> Values:
    space = _shm(look)
    return look.one((space.f_blocks - space.f_bfree) * space.f_frsize if space is not None else None)


def _shm_size(look: Look) -> Values:
    space = _shm(look)
    return look.one(space.f_blocks * space.f_frsize if space is not None else None)


def _pressure(look: Look) -> Labelled:
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
OOM_LIMIT = _gauge(
    "rank_oom_kill_limit_bytes",
    "The cgroup's memory limit under which that was; absent where the node's memory ran out.",
    "bytes",
    "/dev/kmsg, memory: usage, limit",
)

ROWS: tuple[Row[Look], ...] = (
    Row(RANK_INFO, _info),
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
        _counter(
            "rank_cpu_throttled_seconds_total", "Time its cgroup's CPU limit held the rank back.", "s", "cpu.stat"
        ),
        lambda look: look.one(cgroup.cpu_time(look.files, look.group, "throttled")),
    ),
    Row(
        _counter(
            "rank_cpu_limit_used_seconds_total",
            "CPU time used under that limit by all in the cgroup, or by all on the CPUs that the rank is bound to.",
            "s",
            "cpu.stat; /proc/PID/status, /proc/stat",
        ),
        _cpu_limit_used,
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
        _gauge(
            "rank_shm_used_bytes",
            "/dev/shm of the rank's container in use, where it is another than the node's.",
            "bytes",
            "statvfs /proc/PID/root/dev/shm",
        ),
        _shm_used,
    ),
    Row(
        _gauge("rank_shm_size_bytes", "Size of that /dev/shm.", "bytes", "statvfs /proc/PID/root/dev/shm"),
        _shm_size,
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

# What hardly ever changes: looked at every half minute.
SLOW_ROWS: tuple[Row[Look], ...] = (
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
        _gauge("rank_open_files_limit", "Files that a process of the rank may have open.", "count", "/proc/PID/limits"),
        _files_limit,
    ),
    Row(
        _gauge("rank_cpus", "CPUs that the rank may use: affinity and cgroup limits.", "count", "status, cpu.max"),
        _cpus,
    ),
    Row(
        _gauge(
            "rank_memory_limit_bytes", "The cgroup memory limit that leaves the rank the least.", "bytes", "memory.max"
        ),
        _memory_limit,
    ),
)
