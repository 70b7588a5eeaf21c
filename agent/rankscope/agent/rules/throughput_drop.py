"""The run has become slower than it was."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._causes import slow
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._fold import Fold, Place
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.rules._spread import Spread
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class ThroughputDrop:
    """The run makes steps or samples at less than the share `drop` of its own usual speed, and has for a while.

    The usual speed is the median of the last `window` values before the drop. The drop must last `seconds` and `steps`
    steps in the median, so that evaluations, checkpoints and the start of an epoch are none, and a run that
    was slow from the start is not slower than itself.

    Needs `samples_per_second` or `tokens_per_second`, else the seconds of the steps.

    Defaults: none is published. `drop` 0.6 over 5 minutes and 50 steps; `window` 256.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("samples_per_second", "tokens_per_second", "step_seconds")
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    drop: float = 0.6
    seconds: Seconds = 300.0
    steps: int = 50
    window: int = 256

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            found = _speed(rank)
            if found is None:
                return Incomplete("neither throughput nor the time of steps is known")
            memory = rank.memory(self, lambda: _Speeds(self.window))
            memory.invert, series = found
            place = Place(node, run, rank, now)
            for piece in memory.reader.read(series):
                memory.read(self, piece, place)
            if memory.lacks is not None:
                return Incomplete(memory.lacks)
            return memory.episodes.tell(now)

        return each_rank(run.ranks.values(), judge)


LEAST = 50


def _speed(rank: Rank) -> tuple[bool, Series] | None:
    """Return what tells the speed of a rank, and whether it is seconds a step."""
    for role in ("tokens_per_second", "samples_per_second"):
        if (series := rank.role(role)) is not None:
            return False, series
    return (True, rank.step_seconds) if len(rank.step_seconds) else None


class _Speeds(Fold[ThroughputDrop]):
    def __init__(self, window: int) -> None:
        super().__init__()
        self.lacks = f"fewer than {LEAST} values of the speed"
        self.invert = False
        self.usual = Spread(window)
        self.late: deque[tuple[int, float, float]] = deque()  # step, time, speed of the last `seconds` and `steps`
        self.unjudged = 0

    def back(self, step: int, place: Place) -> None:
        self.late.clear()

    def shift(self, seconds: float) -> None:
        super().shift(seconds)
        self.late = deque((step, time + seconds, speed) for step, time, speed in self.late)

    def take(self, rule: ThroughputDrop, step: int, time: float, value: float, place: Place) -> None:
        if not math.isfinite(value) or value <= 0 or math.isnan(time):
            return
        speed = 1 / value if self.invert else value
        late = self.late
        late.append((step, time, speed))
        # What is older than the time that a drop must last belongs to the usual speed.
        while len(late) > 2 and late[1][1] <= time - rule.seconds and late[1][0] <= step - rule.steps:
            past = late.popleft()[2]
            if self.episodes.current is None:
                self.usual.add(past)
        if len(late) > 4096:
            late.popleft()
        if len(self.usual) < LEAST:
            return
        self.lacks = None
        self.unjudged += 1
        if (
            self.unjudged < max(10, len(late) // 8)
            or late[0][1] > time - rule.seconds
            or late[0][0] > step - rule.steps
        ):
            return
        self.unjudged = 0
        usual = self.usual.median
        # 90 % of the stretch is slower: a bad stretch that has begun only just does not count yet.
        now = float(np.percentile([speed for _, _, speed in late], 90))
        if self.episodes.current is not None:
            if now > (1 + rule.drop) / 2 * usual:
                self.episodes.end(place.now)
        elif now < rule.drop * usual:
            median = float(np.median([speed for _, _, speed in late]))
            unit = "steps/s" if self.invert else "samples or tokens/s"
            summary = f"speed fell from {figure(usual)} to {figure(median)} {unit} ({median / usual:.0%})"
            causes = slow.causes(place.around(step, time))
            self.episodes.begin(place.finding(summary, step, time, median, causes))
