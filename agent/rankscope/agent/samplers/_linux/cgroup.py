"""Control groups: where a process is, what limits it, and how much of it is used."""

from __future__ import annotations

import contextlib
import posixpath
from typing import Literal, NamedTuple

from rankscope.agent.samplers._linux.files import Files

MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")  # version 2 alone, and beside version 1
_DROPPED = ("inactive_file", "active_file", "slab_reclaimable")  # a data set that is read twice is active
_OUTSIDE = "/.."  # how the kernel shows what is not below the reader's own namespace


class Memory(NamedTuple):
    limit: int  # bytes
    used: int  # bytes, without what the kernel can drop: cache of files, of their names and inodes


def path_of(files: Files, pid: int) -> str | None:
    """Return the version 2 group of a process below the mount, as the agent sees it.

    Out of its sight, as from another container (`/../…`), that is the folder in which the process's own container sees
    it, without what is further out. Where even that shows the whole machine there is none.
    """
    try:
        lines = files.text(f"proc/{pid}/cgroup").splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is not None and path.startswith(_OUTSIDE):
        inside = f"proc/{pid}/root/sys/fs/cgroup"
        return inside if files.exists(f"{inside}/cgroup.type") else path  # the machine's own group has no type
    return path


def folders(files: Files, path: str) -> list[str]:
    """Return the folders of a group and of those that it is in, innermost first.

    Limits hold along the whole way: a leaf without one may be in a group with one. The outermost is the machine's,
    which has none, or within a container the container's own. Empty where the group is not in sight.
    """
    if not path.startswith("/"):
        return [path]
    if path.startswith(_OUTSIDE):
        return []
    for mount in MOUNTS:
        if files.exists(f"{mount}/cgroup.controllers"):
            parts = [part for part in posixpath.normpath(path).split("/") if part]
            return ["/".join((mount, *parts[:i])) for i in range(len(parts), -1, -1)]
    return []


def memory(files: Files, path: str) -> Memory | None:
    """Return the memory limit that leaves the least, and what is used of it, or None where there is none."""
    found: list[Memory] = []
    for folder in folders(files, path):
        try:
            limit = files.number(f"{folder}/memory.max")
            stat = files.table(f"{folder}/memory.stat")
            cache = sum(stat.get(kind, 0) for kind in _DROPPED)
            used = files.number(f"{folder}/memory.current") - cache
        except (OSError, ValueError):
            continue  # the root group, a group without the controller, or `max`
        found.append(Memory(limit, max(0, used)))
    return min(found, key=lambda each: each.limit - each.used, default=None)


def cpus(files: Files, path: str) -> float | None:
    """Return how many CPUs' time the groups allow, or None where they set no limit."""
    return min(_cpu_limits(files, path).values(), default=None)


def _cpu_limits(files: Files, path: str) -> dict[str, float]:
    """Return the limits of those folders that have one, innermost first."""
    found: dict[str, float] = {}
    for folder in folders(files, path):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # `max`, or a group without the controller
            quota, period = files.text(f"{folder}/cpu.max").split()
            found[folder] = int(quota) / int(period)
    return found


def cpu_time(files: Files, path: str, name: Literal["throttled", "usage"]) -> float | None:
    """Return for how long the group with the tightest limit was held back, or what CPU time it used, in seconds."""
    limits = _cpu_limits(files, path)
    if not limits:
        return None
    with contextlib.suppress(OSError, LookupError):
        return files.table(f"{min(limits, key=lambda folder: limits[folder])}/cpu.stat")[f"{name}_usec"] / 1e6
    return None


def oom_kills(files: Files, path: str) -> int | None:
    """Return how many processes of the group were killed for the lack of memory."""
    found = folders(files, path)
    try:
        return files.table(f"{found[0]}/memory.events")["oom_kill"] if found else None
    except (OSError, LookupError):
        return None


def pressure_text(files: Files, path: str, resource: str) -> str:
    """Return the group's pressure file. Raises OSError where there is none."""
    found = folders(files, path)
    if not found:
        raise FileNotFoundError(path)
    return files.text(f"{found[0]}/{resource}.pressure")
