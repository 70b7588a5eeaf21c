"""The CPUs that a process may run on, and how busy those are."""

from __future__ import annotations

import contextlib
import os
import re
from functools import cached_property

from rankscope.agent.samplers._linux.files import Files

_TICKS = os.sysconf("SC_CLK_TCK")
_CPU = re.compile(r"^cpu(\d+) (.*)$", re.MULTILINE)
_IDLE = (3, 4)  # fields of /proc/stat: idle, iowait


class Cpus:
    """The machine's CPUs that are on line, read once and only when asked for: a machine may have hundreds."""

    def __init__(self, files: Files) -> None:
        self._files = files

    @cached_property
    def busy(self) -> dict[int, float]:
        """The seconds in which each CPU was not idle, since the start of the machine. Raises OSError and ValueError."""
        found: dict[int, float] = {}
        for number, rest in _CPU.findall(self._files.text("proc/stat")):
            ticks = [int(word) for word in rest.split()[:8]]  # guest time is part of user time already
            found[int(number)] = sum(tick for i, tick in enumerate(ticks) if i not in _IDLE) / _TICKS
        return found


def allowed(files: Files, pid: int, cpus: Cpus) -> frozenset[int]:
    """Return the numbers of a process's CPUs, by its cpuset and its mask; empty where it does not tell.

    The kernel names those that could be plugged in, too, of which a virtual machine may have a hundred.
    """
    for line in files.text(f"proc/{pid}/status").splitlines():
        if line.startswith("Cpus_allowed:"):
            mask = int(line.split()[1].replace(",", ""), 16)
            named = frozenset(i for i in range(mask.bit_length()) if mask >> i & 1)
            with contextlib.suppress(OSError):
                return named & cpus.busy.keys() or named
            return named
    return frozenset()


class Confined:
    """CPU time that all processes used of the CPUs to which some process is bound, from the first look on.

    Kept as a sum of what was added, so that it goes on where the process is bound to other CPUs.
    """

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self._total = 0.0

    def look(self, own: frozenset[int], cpus: Cpus) -> float | None:
        """Return the seconds of its `own` CPUs, None where these are all. Raises OSError and ValueError."""
        now = cpus.busy
        if not own or not own < now.keys():
            self._last = {}
            return None
        self._total += sum(max(0.0, now[cpu] - self._last[cpu]) for cpu in own if cpu in self._last)
        self._last = now
        return self._total
