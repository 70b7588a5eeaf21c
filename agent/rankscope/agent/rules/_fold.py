"""The frame of rules that read one series of each rank, point by point, and remember what they need of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from rankscope.agent.model import Cause, Finding, Incomplete, Verdict
from rankscope.agent.rules._causes.around import Around
from rankscope.agent.rules._episodes import Episodes
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.rules._reading import Piece, Reader
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run

Params = TypeVar("Params")


@dataclass(frozen=True, slots=True)
class Place:
    """The rank that is being judged, and when."""

    node: Node
    run: Run
    rank: Rank
    now: float

    def around(self, step: int, time: float) -> Around:
        return Around(self.node, self.run, self.rank, step, time)

    def finding(self, summary: str, step: int, time: float, value: float, causes: tuple[Cause | None, ...]) -> Finding:
        listed = tuple(cause for cause in causes if cause is not None)
        return Finding(summary, step, time, value, self.rank.info.key.rank, causes=listed)

    def role_at(self, role: str, step: int) -> float | None:
        """Return the newest finite value of a role logged at or before a step, or None."""
        series = self.rank.role(role)
        if series is None or not len(series):
            return None
        at = int(np.searchsorted(series.step, step, side="right"))
        for value in series.value[max(0, at - 8) : at][::-1].tolist():
            if math.isfinite(value):
                return float(value)
        return None


class Fold(Generic[Params]):
    """What a rule keeps of one rank. `take` gets each point once, in order, however they arrived."""

    lacks: str | None = None  # why it cannot judge yet

    def __init__(self, hold: float = 0.0) -> None:
        self.reader = Reader()
        self.episodes = Episodes(hold)

    def back(self, step: int, place: Place) -> None:
        """The run went back to a step: what was read of it and of later ones no longer counts."""

    def shift(self, seconds: float) -> None:
        """The clock was set: times that are remembered move with it."""
        self.episodes.shift(seconds)

    def take(self, rule: Params, step: int, time: float, value: float, place: Place) -> None:
        raise NotImplementedError

    def read(self, rule: Params, piece: Piece, place: Place) -> None:
        if piece.back:
            self.back(int(piece.step[0]), place)
        for step, time, value in zip(piece.step.tolist(), piece.time.tolist(), piece.value.tolist(), strict=True):
            self.take(rule, step, time, value, place)


def fold_ranks(
    rule: Params, node: Node, run: Run | None, now: float, role: str, make: Callable[[], Fold[Params]]
) -> Verdict:
    """Judge each rank of a run by the series that plays a role."""
    if run is None:
        return Incomplete("no run")
    what = role.replace("_", " ")

    def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
        series = rank.role(role)
        if series is None:
            return Incomplete(f"no {what} was logged")
        memory = rank.memory(rule, make)
        if memory.reader.position != series.count:
            place = Place(node, run, rank, now)
            for piece in memory.reader.read(series):
                memory.read(rule, piece, place)
        if memory.lacks is not None:
            return Incomplete(memory.lacks)
        return memory.episodes.tell(now)

    return each_rank(run.ranks.values(), judge)
