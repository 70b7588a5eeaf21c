"""Whose a process on a GPU is: the rank's itself, or that of a rank among its ancestors."""

from __future__ import annotations

from dataclasses import dataclass, field

from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.processes import Finder, read_stat

_GENERATIONS = 8  # a rank's process on the GPU is itself or a near descendant


@dataclass(slots=True)
class Owners:
    """Finds the rank of a pid, as the driver and the agent see it."""

    root: str = "/"
    _finder: Finder = field(default_factory=Finder)
    _ranks: dict[int, Rank] = field(default_factory=dict[int, Rank])  # by pid as the agent sees it
    _unseen: dict[int, Rank] = field(default_factory=dict[int, Rank])  # by their own pid: out of the agent's sight
    _files: Files = field(default_factory=Files)

    def look(self, node: Node, now: float) -> None:
        """Learn which ranks there are now."""
        self._files = Files(self.root)
        self._ranks, self._unseen = {}, {}
        sessions: set[int] = set()
        for run in tuple(node.runs.values()):
            for rank in tuple(run.ranks.values()):
                if rank.goodbye is not None:
                    continue
                sessions.add(rank.info.session)
                stat = self._finder.find(self._files, rank.info, now)
                if stat is not None:
                    self._ranks[stat.pid] = rank
                elif rank.info.pid:
                    self._unseen[rank.info.pid] = rank
        self._finder.keep(sessions)

    def of(self, pid: int) -> Rank | None:
        """Return the rank to which a process belongs, None for a stranger."""
        if not self._ranks:
            return self._unseen.get(pid)
        each = pid
        for _ in range(_GENERATIONS):
            rank = self._ranks.get(each)
            if rank is not None:
                return rank
            stat = read_stat(self._files, each)
            if stat is None or stat.parent < 1:
                break
            each = stat.parent
        return self._unseen.get(pid)
