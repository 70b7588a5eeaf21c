"""Who was killed for the lack of memory: never told from an exit status, only from what the kernel says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rankscope.agent.samplers._linux import cgroup
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.kmsg import GpuError, Kill


@dataclass(frozen=True, slots=True)
class Death:
    """An out-of-memory kill in a rank's process tree."""

    time: float  # Unix seconds
    resident: int = 0  # bytes; 0 where only the control group told


@dataclass(slots=True)
class _Session:
    pids: set[int] = field(default_factory=set[int])  # all that were ever in the tree
    group: str = ""
    kills: int | None = None  # of the group, when it was last looked at
    death: Death | None = None


@dataclass(slots=True)
class Deaths:
    """Keeps, for each session, whose pids were its, and what became of them."""

    _sessions: dict[int, _Session] = field(default_factory=dict[int, _Session])

    def alive(self, session: int, pids: Iterable[int], group: str) -> None:
        """A rank lives, with these processes in this control group."""
        known = self._sessions.setdefault(session, _Session())
        known.pids.update(pids)
        known.group = group

    def look(self, files: Files, living: set[int], log: Iterable[Kill | GpuError], now: float) -> None:
        """Learn of kills: from the kernel's log by pid, else from a group whose count rose as its rank went."""
        kills = [each for each in log if isinstance(each, Kill)]
        for session, known in self._sessions.items():
            for kill in kills:
                if kill.pid in known.pids:
                    known.death = Death(kill.time, kill.resident)
            count = cgroup.oom_kills(files, known.group) if known.group else None
            rose = count is not None and known.kills is not None and count > known.kills
            if rose and session not in living and known.death is None:
                known.death = Death(now)
            if count is not None and (session in living or known.kills is None):
                known.kills = count

    def shift(self, seconds: float) -> None:
        """The clock went forward by so much, or back."""
        for known in self._sessions.values() if seconds else ():
            if known.death is not None:
                known.death = replace(known.death, time=known.death.time + seconds)

    def of(self, session: int) -> Death | None:
        known = self._sessions.get(session)
        return known.death if known is not None else None

    def keep(self, sessions: set[int]) -> None:
        self._sessions = {session: known for session, known in self._sessions.items() if session in sessions}
