"""Memory of the whole node: main memory, swap, shared memory, and kills for the lack of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._rows import Labelled, Row, Values, collect, each, metrics


def _kibibytes(files: Files, name: str) -> int:
    return files.table("proc/meminfo")[name] * 1024


def _available(files: Files) -> Values:
    """Add ZFS' cache down to its least size: the kernel does not know that it can be dropped."""
    cache = 0
    with contextlib.suppress(OSError, LookupError):
        lines = [line.split() for line in files.text("proc/spl/kstat/zfs/arcstats").splitlines()]
        table = {words[0]: int(words[2]) for words in lines if len(words) == 3 and words[2].isdigit()}
        cache = max(0, table["size"] - table["c_min"])
    return min(_kibibytes(files, "MemAvailable") + cache, _kibibytes(files, "MemTotal"))


def _shm_size(files: Files) -> Values:
    space = files.space("dev/shm")
    return space.f_blocks * space.f_frsize


def _shm_used(files: Files) -> Values:
    space = files.space("dev/shm")
    return (space.f_blocks - space.f_bfree) * space.f_frsize


def _numa_free(files: Files) -> Labelled:
    for path in files.glob("sys/devices/system/node/node[0-9]*/meminfo"):
        match = re.search(r"Node (\d+) MemFree:\s+(\d+) kB", files.text(path))
        if match:
            yield (match[1],), int(match[2]) * 1024


def _numa_misses(files: Files) -> Labelled:
    paths = files.glob("sys/devices/system/node/node[0-9]*/numastat")
    nodes = (((path.rsplit("/", 2)[1].removeprefix("node"),), path) for path in paths)
    return each(nodes, lambda path: files.table(path)["numa_miss"])


ROWS: tuple[Row[Files], ...] = (
    Row(
        Metric("system_memory_size_bytes", "gauge", "Host memory.", unit="bytes", source="/proc/meminfo MemTotal"),
        lambda files: _kibibytes(files, "MemTotal"),
    ),
    Row(
        Metric(
            "system_memory_available_bytes",
            "gauge",
            "Memory available without swapping.",
            unit="bytes",
            source="/proc/meminfo MemAvailable, /proc/spl/kstat/zfs/arcstats",
        ),
        _available,
    ),
    Row(
        Metric("system_swap_used_bytes", "gauge", "Swap in use.", unit="bytes", source="/proc/meminfo"),
        lambda files: _kibibytes(files, "SwapTotal") - _kibibytes(files, "SwapFree"),
    ),
    Row(
        Metric("system_swap_size_bytes", "gauge", "Swap there is.", unit="bytes", source="/proc/meminfo SwapTotal"),
        lambda files: _kibibytes(files, "SwapTotal"),
    ),
    Row(
        Metric("system_shm_used_bytes", "gauge", "/dev/shm in use.", unit="bytes", source="statvfs /dev/shm"),
        _shm_used,
    ),
    Row(
        Metric("system_shm_size_bytes", "gauge", "/dev/shm size.", unit="bytes", source="statvfs /dev/shm"),
        _shm_size,
    ),
    Row(
        Metric("system_oom_kills_total", "counter", "Kernel OOM kills.", unit="count", source="/proc/vmstat oom_kill"),
        lambda files: files.table("proc/vmstat")["oom_kill"],
    ),
    Row(
        Metric(
            "system_numa_memory_free_bytes",
            "gauge",
            "Free memory of a NUMA node.",
            ("numa_node",),
            "bytes",
            "/sys/devices/system/node/node*/meminfo MemFree",
        ),
        _numa_free,
    ),
    Row(
        Metric(
            "system_numa_misses_total",
            "counter",
            "Pages that this NUMA node gave to a process that wanted another node's.",
            ("numa_node",),
            "count",
            "/sys/devices/system/node/node*/numastat numa_miss",
        ),
        _numa_misses,
    ),
)


@dataclass
class Memory:
    """Main memory, swap, /dev/shm, NUMA nodes, and the kernel's OOM kills."""

    interval: Seconds = 2.0
    root: str = "/"

    metrics: ClassVar[tuple[Metric, ...]] = metrics(ROWS)

    def sample(self, node: Node) -> Iterable[Sample]:
        return collect(ROWS, Files(self.root))

    def close(self) -> None:
        """Nothing is held."""
