"""Processes as the kernel shows them: who is whose child, what they use, and which one a rank is."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from rankscope.agent.model import RankInfo
from rankscope.agent.samplers._linux.files import Files

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says (proc_pid_stat(5)); times in seconds, start in clock ticks since boot."""

    pid: int
    name: str
    state: str
    parent: int
    cpu: float  # user and system time, with that of reaped children
    reaped: float  # that of reaped children alone
    threads: int
    start: int
    resident: int  # bytes


def parse_stat(text: str) -> Stat:
    """Return what a stat line says. Raises ValueError or IndexError when it is none."""
    opening, closing = text.index("("), text.rindex(")")  # a name may hold anything, parentheses too
    words = text[closing + 2 :].split()
    return Stat(
        pid=int(text[:opening]),
        name=text[opening + 1 : closing],
        state=words[0],
        parent=int(words[1]),
        cpu=sum(int(word) for word in words[11:15]) / TICKS,
        reaped=sum(int(word) for word in words[13:15]) / TICKS,
        threads=int(words[17]),
        start=int(words[19]),
        resident=int(words[21]) * PAGE,
    )


def read_stat(files: Files, pid: int) -> Stat | None:
    """Return a process's figures, or None when it is gone."""
    try:
        return parse_stat(files.text(f"proc/{pid}/stat"))
    except (OSError, ValueError, LookupError):
        return None


@dataclass(slots=True)
class Family:
    """Whose child each process is, kept from look to look so that only new processes are read."""

    _parents: dict[int, int] = field(default_factory=dict[int, int])
    _children: dict[int, list[int]] = field(default_factory=dict[int, list[int]])

    def look(self, files: Files) -> set[int]:
        """Learn and return which processes there are now."""
        there = {int(name) for name in os.listdir(files.path("proc")) if name.isdigit()}
        for pid in self._parents.keys() - there:
            del self._parents[pid]
        for pid in there - self._parents.keys():
            stat = read_stat(files, pid)
            if stat is not None:
                self._parents[pid] = stat.parent
        self._children = {}
        for pid, parent in self._parents.items():
            self._children.setdefault(parent, []).append(pid)
        return there

    def descendants(self, pid: int) -> list[int]:
        """Return the process and all that descend from it, itself first."""
        found = [pid]
        for each in found:
            found.extend(child for child in self._children.get(each, ()) if child not in found)
        return found


@dataclass(slots=True)
class Finder:
    """Finds the process of a rank, in another PID namespace too, and remembers it."""

    _found: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])  # pid, start; by session
    _missed: dict[int, float] = field(default_factory=dict[int, float])  # when to search again, by session

    def find(self, files: Files, info: RankInfo, now: float) -> Stat | None:
        """Return the process of a rank as the agent sees it, or None while it cannot be seen.

        A pid means this process only with the start time that the rank gave: pids are used again, and the same pid
        is another process in another namespace.
        """
        known = self._found.get(info.session)
        if known is not None:
            stat = read_stat(files, known[0])
            if stat is not None and stat.start == known[1]:
                return stat
            return None  # it ended
        if now < self._missed.get(info.session, 0.0):
            return None
        stat = self._here(files, info) or self._inside(files, info)
        if stat is None:
            self._missed[info.session] = now + 30.0
            return None
        self._found[info.session] = (stat.pid, stat.start)
        return stat

    def keep(self, sessions: set[int]) -> None:
        """Forget all sessions but these."""
        self._found = {session: found for session, found in self._found.items() if session in sessions}
        self._missed = {session: again for session, again in self._missed.items() if session in sessions}

    def _here(self, files: Files, info: RankInfo) -> Stat | None:
        stat = read_stat(files, info.pid)
        return stat if stat is not None and info.pid_start_ticks in (0, stat.start) else None

    def _inside(self, files: Files, info: RankInfo) -> Stat | None:
        """Search for the process whose pid in its own namespace is the rank's: the last of its NSpid line."""
        if not info.pid or not info.pid_start_ticks:
            return None
        for name in os.listdir(files.path("proc")):
            if not name.isdigit():
                continue
            stat = read_stat(files, int(name))
            if stat is not None and stat.start == info.pid_start_ticks and inner_pid(files, stat.pid) == info.pid:
                return stat
        return None


def inner_pid(files: Files, pid: int) -> int | None:
    """Return a process's pid in its own PID namespace, or None when it is gone."""
    try:
        lines = files.text(f"proc/{pid}/status").splitlines()
    except OSError:
        return None
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), None)
