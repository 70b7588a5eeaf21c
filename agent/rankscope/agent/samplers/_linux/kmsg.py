"""The kernel's log: out-of-memory kills and GPU errors, as they are written."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

# "Out of memory: Killed process 4711 (python) total-vm:…kB, anon-rss:…kB, file-rss:…" (mm/oom_kill.c), and the same
# after "Memory cgroup out of memory:", after "Out of memory (oom_kill_allocating_task):", and in kernels before 5.1 at
# the beginning of a line. A bare "Killed" is no proof.
_KILL = re.compile(
    r"(?:[Oo]ut of memory(?: \(\w+\))?: |^)Killed process (\d+) \((.*)\),? (?:UID \d+,? )?total-vm:.*?anon-rss:(\d+)kB"
)
# Before a kill in a control group, of the group: "memory: usage 32768kB, limit 32768kB, failcnt 79" (mm/memcontrol.c).
_LIMIT = re.compile(r"^memory: usage \d+kB, limit (\d+)kB")
_IN_GROUP = "Memory cgroup out of memory"
# "NVRM: Xid (PCI:0000:3b:00): 79, pid=4711, name=python, GPU has fallen off the bus."
_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)(?:, pid='?(\d+)'?)?")


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that the kernel killed for the lack of memory; time in Unix seconds."""

    time: float
    pid: int
    name: str
    resident: int  # bytes, anonymous
    limit: int = 0  # bytes, of the control group; 0 where it was the whole machine that ran out


@dataclass(frozen=True, slots=True)
class GpuError:
    """An XID, by the GPU's address without its function (`0000:3b:00`); pid 0 where none is named."""

    time: float
    address: str
    code: int
    pid: int


@dataclass(slots=True)
class KernelLog:
    """Reads what has been written since the last reading, from the moment it was made on.

    Only root, or everybody where kernel.dmesg_restrict is 0, may: elsewhere nothing is found.
    """

    root: str = "/"
    _file: int | None = field(default=None, init=False)
    _rest: bytes = field(default=b"", init=False)
    _limit: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        with contextlib.suppress(OSError):
            self._file = os.open(f"{self.root.rstrip('/')}/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._file, 0, os.SEEK_END)

    def read(self) -> Iterator[Kill | GpuError]:
        boot = time.time() - time.monotonic()
        for line in self._lines():
            head, _, message = line.partition(";")
            words = head.split(",")
            if len(words) < 3 or not words[2].isdigit():
                continue  # a continuation line
            written = boot + int(words[2]) / 1e6
            if kill := _KILL.search(message):
                limit = self._limit if _IN_GROUP in message else 0
                yield Kill(written, int(kill[1]), kill[2], int(kill[3]) * 1024, limit)
            elif of_group := _LIMIT.match(message):
                self._limit = int(of_group[1]) * 1024
            elif xid := _XID.search(message):
                yield GpuError(written, xid[1].lower().split(".")[0], int(xid[2]), int(xid[3] or 0))

    def _lines(self) -> Iterator[str]:
        """Yield complete lines; the device gives one record a read, and EPIPE where records were overwritten."""
        while self._file is not None:
            try:
                read = os.read(self._file, 8192)
            except BrokenPipeError:
                continue
            except OSError:
                return  # nothing new
            if not read:
                return
            *lines, self._rest = (self._rest + read).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
