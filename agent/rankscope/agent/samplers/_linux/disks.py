"""The counters of whole disks, which go on where the kernel's own begin anew."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rankscope.agent.samplers._linux.files import Files

# Not disks, or made of disks that are counted already.
_NO_DISK = re.compile(r"(loop|ram|zram|dm-|md|bcache|drbd|zd\d|sr|fd|nbd|nvme\d+c\d+)")
_MILLISECONDS = (3, 7, 9)  # which the kernel gives in 32 bits: with many operations at a time they last a day
_TURN = 1 << 32


@dataclass(frozen=True, slots=True)
class _Disk:
    raw: list[int]  # fields 4 to 14 of a line (docs.kernel.org/admin-guide/iostats.html)
    turns: Mapping[int, int]  # how often each count of milliseconds began anew


@dataclass(slots=True)
class Disks:
    """Remembers what was read last of each disk."""

    _last: dict[str, _Disk] = field(default_factory=dict[str, _Disk])

    def look(self, files: Files) -> dict[str, list[int]]:
        """Return the counters of each disk that is there. Raises OSError and ValueError."""
        there: dict[str, _Disk] = {}
        for line in files.text("proc/diskstats").splitlines():
            words = line.split()
            if len(words) >= 14 and not _NO_DISK.match(words[2]) and files.exists(f"sys/block/{words[2]}"):
                raw = [int(word) for word in words[3:14]]
                there[words[2]] = _Disk(raw, _turns(self._last.get(words[2]), raw))
        self._last = there
        return {
            name: [count + _TURN * disk.turns.get(i, 0) for i, count in enumerate(disk.raw)]
            for name, disk in there.items()
        }


def _turns(last: _Disk | None, raw: list[int]) -> Mapping[int, int]:
    if last is None or raw[0] < last.raw[0] or raw[4] < last.raw[4]:  # fewer operations: another disk of that name
        return {}
    return {i: last.turns.get(i, 0) + (raw[i] + _TURN // 2 < last.raw[i]) for i in _MILLISECONDS}
