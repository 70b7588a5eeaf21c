"""Disks and file systems: space, traffic, and how long operations take."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.disks import Disks
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.spaces import Spaces
from rankscope.agent.samplers._rows import Labelled, Row, collect, each, metrics

# A network file system whose server is gone blocks whoever asks: those are named by hand.
_LOCAL = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs"))
_INTERNAL = re.compile(r"/(proc|sys|dev|run|snap|boot|etc|usr/lib|var/lib/(docker|containerd|kubelet|containers))(/|$)")
_ALWAYS = ("/", "/tmp")  # whatever they are: a container's overlay, a tmpfs
_ESCAPED = re.compile(r"\\([0-7]{3})")  # blanks and the like in a mount point (proc_pid_mounts(5))
_SECTOR = 512  # bytes, whatever the disk's own (proc_diskstats)
_MAX = 16


@dataclass(frozen=True, slots=True)
class _Mount:
    point: str
    device: str
    readonly: bool


class _Look:
    """One look at the disks and file systems."""

    def __init__(self, files: Files, mountpoints: tuple[str, ...], disks: Disks, spaces: Spaces) -> None:
        self.files = files
        self._counters = disks
        self._named = mountpoints
        self._asked = spaces

    @cached_property
    def _space(self) -> dict[str, os.statvfs_result | None]:
        points = [mount.point for mount in _mounts(self.files, self._named)]
        return self._asked.look(self.files, list(dict.fromkeys(points)))

    @cached_property
    def mounts(self) -> list[_Mount]:
        """The mounts to tell of. Raises OSError."""
        named, space = self._named or _ALWAYS, self._space
        there = _mounts(self.files, self._named)
        return _each_once(each for each in there if each.point in named or space.get(each.point, True) is not None)

    @cached_property
    def disks(self) -> list[tuple[str, list[int]]]:
        """Each whole disk with its counters. Raises OSError and ValueError."""
        return list(self._counters.look(self.files).items())

    def spaces(self) -> Iterator[tuple[tuple[str], os.statvfs_result]]:
        """Yield the space of each mount point that answered."""
        for mount in self.mounts:
            space = self._space.get(mount.point)
            if space is not None:
                yield (mount.point,), space


def _mounts(files: Files, mountpoints: tuple[str, ...]) -> Iterator[_Mount]:
    """Yield the mounts to look at: those asked for, else those of local file systems, folders or not."""
    for line in files.text("proc/self/mounts").splitlines():
        words = line.split(" ")
        if len(words) < 4:
            continue
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), words[1])
        named = point in (mountpoints or _ALWAYS)
        local = words[2] in _LOCAL and not mountpoints and not _INTERNAL.match(point)
        if named or local:
            device = words[0] if words[2] in _LOCAL and not mountpoints else point
            yield _Mount(point, device, "ro" in words[3].split(","))


def _each_once(mounts: Iterable[_Mount]) -> list[_Mount]:
    """Return each file system once: where it can be written, if anywhere.

    In a container with GPUs the driver's libraries and programs are files of the host's disk, each mounted by itself
    and read-only: those are no file systems.
    """
    found: dict[str, _Mount] = {}
    for mount in mounts:
        known = found.get(mount.device)
        if known is None or known.point == mount.point or (known.readonly and not mount.readonly):
            found[mount.device] = mount
    return list({mount.point: mount for mount in found.values()}.values())[:_MAX]


def _bytes(look: _Look) -> Labelled:
    for name, counters in look.disks:
        yield (name, "read"), counters[2] * _SECTOR
        yield (name, "write"), counters[6] * _SECTOR


def _operations(look: _Look) -> Labelled:
    for name, counters in look.disks:
        yield (name, "read"), counters[0]
        yield (name, "write"), counters[4]


def _waits(look: _Look) -> Labelled:
    for name, counters in look.disks:
        yield (name, "read"), counters[3] / 1000
        yield (name, "write"), counters[7] / 1000


def _busy(look: _Look) -> Labelled:
    for name, counters in look.disks:
        yield (name,), counters[9] / 1000


def _avail(look: _Look) -> Labelled:
    return each(look.spaces(), lambda space: space.f_bavail * space.f_frsize)


def _size(look: _Look) -> Labelled:
    return each(look.spaces(), lambda space: space.f_blocks * space.f_frsize)


def _inodes(look: _Look) -> Labelled:
    """Btrfs, and an overlay on it, has no such limit."""
    return each(look.spaces(), lambda space: space.f_favail / space.f_files if space.f_files else None)


def _readonly(look: _Look) -> Labelled:
    """Of those that do not answer, too."""
    for mount in look.mounts:
        yield (mount.point,), mount.readonly


ROWS: tuple[Row[_Look], ...] = (
    Row(
        Metric(
            "system_disk_bytes_total",
            "counter",
            "Disk bytes, whole disks only; direction=read|write.",
            ("device", "direction"),
            "bytes",
            "/proc/diskstats",
        ),
        _bytes,
    ),
    Row(
        Metric(
            "system_disk_operations_total",
            "counter",
            "Disk operations; direction=read|write.",
            ("device", "direction"),
            "count",
            "/proc/diskstats",
        ),
        _operations,
    ),
    Row(
        Metric(
            "system_disk_operation_seconds_total",
            "counter",
            "Time of all disk operations, waiting included; its rate over that of operations is the await.",
            ("device", "direction"),
            "s",
            "/proc/diskstats",
        ),
        _waits,
    ),
    Row(
        Metric(
            "system_disk_busy_seconds_total",
            "counter",
            "Time the disk had I/O in flight.",
            ("device",),
            "s",
            "/proc/diskstats",
        ),
        _busy,
    ),
    Row(
        Metric(
            "system_filesystem_avail_bytes",
            "gauge",
            "Free space for non-root.",
            ("mountpoint",),
            "bytes",
            "statvfs",
        ),
        _avail,
    ),
    Row(
        Metric("system_filesystem_size_bytes", "gauge", "File system size.", ("mountpoint",), "bytes", "statvfs"),
        _size,
    ),
    Row(
        Metric(
            "system_filesystem_inodes_avail_ratio",
            "gauge",
            "Share of inodes that is free for non-root.",
            ("mountpoint",),
            "ratio",
            "statvfs",
        ),
        _inodes,
    ),
    Row(
        Metric(
            "system_filesystem_readonly",
            "gauge",
            "1 when the file system is mounted read-only.",
            ("mountpoint",),
            "bool",
            "/proc/self/mounts",
        ),
        _readonly,
    ),
)


@dataclass
class Disk:
    """Space of file systems, traffic of disks, and how long their operations take.

    `mountpoints` empty: every local file system, each once, at most 16. Network file systems are looked at only where
    they are named here. One that does not answer is absent until it does, and holds up none of the others.
    """

    interval: Seconds = 10.0
    mountpoints: tuple[str, ...] = ()
    root: str = "/"
    _disks: Disks = field(default_factory=Disks, init=False, repr=False)
    _spaces: Spaces = field(default_factory=Spaces, init=False, repr=False)

    metrics: ClassVar[tuple[Metric, ...]] = metrics(ROWS)

    def sample(self, node: Node) -> Iterable[Sample]:
        return collect(ROWS, _Look(Files(self.root), self.mountpoints, self._disks, self._spaces))

    def close(self) -> None:
        """Nothing is held."""
