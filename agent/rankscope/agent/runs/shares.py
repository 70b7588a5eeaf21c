"""Whole norms of sharded models: each rank tells its share of a step, and the shares are added up here."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rankscope.agent.model import RankInfo

SHARES: Mapping[str, str] = {
    f"{role}_share": role for role in ("grad_norm", "first_layer_grad_norm", "last_layer_grad_norm")
}
"""The role that the whole plays, by the name of its shares."""

MOST = 512  # steps of a name that wait for a rank's share; beyond it the oldest are dropped


class Shares:
    """The shares of a run's steps that not all ranks have told yet."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[tuple[int, int], dict[int, float]]] = {}  # by name, attempt and step, rank

    def add(self, info: RankInfo, name: str, step: int, value: float) -> float | None:
        """Take a rank's share; return the whole when it was the last one of its step.

        The square of the whole is the sum of the squares of the shares. It is never known where ranks of the run are on
        other nodes.
        """
        if info.world_size < 2 or info.world_size > info.local_world_size:
            return None
        waiting = self._waiting.setdefault(name, {})
        key = info.attempt, step
        told = waiting.setdefault(key, {})
        told[info.key.rank] = value
        if len(told) < info.world_size:
            if len(waiting) > MOST:
                del waiting[min(waiting)]  # of a rank that is far behind, not what the others told last
            return None
        del waiting[key]
        return math.hypot(*told.values())
