"""Who was killed for the lack of memory: never told from an exit status, only from what the kernel says."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from rankscope.agent.samplers._linux import cgroup
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.kmsg import GpuError, Kill

_REMEMBERED = 120.0  # seconds after which a pid may be another process
_WAIT = 60.0  # seconds for which a group's kill may be that of a rank whose end is not yet known


@dataclass(frozen=True, slots=True)
class Death:
    """An out-of-memory kill in a rank's process tree."""

    time: float  # Unix seconds
    resident: int = 0  # bytes; 0 where only the control group told
    limit: int = 0  # bytes, of the control group that ran out; 0 where none did or nobody tells


@dataclass(slots=True)
class _Session:
    pids: dict[int, float] = field(default_factory=dict[int, float])  # when each was last seen in the tree
    group: str = ""
    death: Death | None = None


@dataclass(slots=True)
class _Group:
    kills: int  # as counted when it was last looked at
    unexplained: int = 0  # of them, those of which it is not known whom they hit
    rose: float = 0.0


@dataclass(slots=True)
class Deaths:
    """Keeps, for each session, whose pids were its, and what became of them."""

    _sessions: dict[int, _Session] = field(default_factory=dict[int, _Session])
    _groups: dict[str, _Group] = field(default_factory=dict[str, _Group])

    def shift(self, seconds: float) -> None:
        """The clock went forward by so much, or back."""
        for known in self._sessions.values() if seconds else ():
            if known.death is not None:
                known.death = replace(known.death, time=known.death.time + seconds)
        for group in self._groups.values():
            group.rose += seconds

    def alive(self, session: int, pids: Iterable[int], group: str, now: float) -> None:
        """A rank lives, with these processes in this control group; `now` in monotonic seconds."""
        known = self._sessions.setdefault(session, _Session())
        known.pids.update(dict.fromkeys(pids, now))
        known.pids = {pid: seen for pid, seen in known.pids.items() if now - seen < _REMEMBERED}
        known.group = group

    def look(
        self,
        files: Files,
        living: Collection[int],
        ended: Collection[int],
        log: Iterable[Kill | GpuError],
        now: float,
    ) -> None:
        """Learn of kills: from the kernel's log by pid, else from a group whose count rose as its rank went.

        `ended`: sessions that are known to have ended otherwise than by SIGKILL. Of ranks that share a group only as
        many are said to be killed as were: where it may have been more than that, nothing is said of any.
        """
        told: dict[str, int] = {}
        for kill in log:
            for known in self._sessions.values():
                if isinstance(kill, Kill) and kill.pid in known.pids:
                    known.death = Death(kill.time, kill.resident, kill.limit)
                    told[known.group] = told.get(known.group, 0) + 1
        members: dict[str, list[int]] = {}
        for session, known in self._sessions.items():
            members.setdefault(known.group, []).append(session)
        self._groups = {name: group for name, group in self._groups.items() if name in members}
        for name, sessions in members.items():
            group = self._count(files, name, told.get(name, 0), now)
            if group is None or not group.unexplained:
                continue
            gone = [self._sessions[each] for each in sessions if each not in living and each not in ended]
            gone = [known for known in gone if known.death is None]
            if 0 < len(gone) <= group.unexplained:
                group.unexplained -= len(gone)
                for known in gone:
                    known.death = Death(group.rose)

    def _count(self, files: Files, name: str, told: int, now: float) -> _Group | None:
        """Bring a group's count up to date; `told`: kills of which the log said whom they hit."""
        count = cgroup.oom_kills(files, name)
        if count is None:
            return None
        group = self._groups.setdefault(name, _Group(count))
        if count > group.kills:
            group.unexplained, group.rose = group.unexplained + count - group.kills, now
        elif now - group.rose > _WAIT:
            group.unexplained = 0
        group.kills, group.unexplained = count, max(0, group.unexplained - told)
        return group

    def of(self, session: int) -> Death | None:
        known = self._sessions.get(session)
        return known.death if known is not None else None

    def keep(self, sessions: set[int]) -> None:
        self._sessions = {session: known for session, known in self._sessions.items() if session in sessions}
