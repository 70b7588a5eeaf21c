"""The loss goes up and stays up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

from rankscope.agent.model import Severity, Span, Verdict
from rankscope.agent.rules._causes import jump
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.rules._spread import Spread
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class LossDivergence:
    """The training loss goes up and stays up: above where it began, or by most of what was learned.

    The level now is the median of the last `points` points. It diverges when it lies above the loss at the start by
    `above_start` of it and by 4 deviations, or when it has undone the share `undone` of what was learned for `steps`
    steps without coming down again. It is over when neither has been so for as many steps.

    Needs `loss`, 20 points of it; uses `lr` and `grad_norm`. Points of steps that are trained again do not count.

    Defaults: SageMaker's LossNotDecreasing calls a rise of 5 % in 10 steps; that is the noise of most runs.
    `above_start` 0.25; `undone` 0.5 for 50 steps; `points` 9, so that 4 outliers in a row are none. Severity critical:
    what runs on is lost.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    severity: Severity = "critical"
    for_: Span = field(default_factory=Span)
    above_start: float = 0.25  # of the loss at the start
    undone: float = 0.5  # of what was learned
    steps: int = 50  # for which it is undone
    points: int = 9  # that make the level now

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "loss", lambda: _Loss(self.points))


LEAST = 20
WIDE = 64  # points of the slower level


class _Loss(Fold[LossDivergence]):
    def __init__(self, points: int) -> None:
        super().__init__()
        self.lacks = f"fewer than {LEAST} losses were logged"
        self.now = Spread(points)
        self.slow = Spread(WIDE)
        self.first: list[float] = []
        self.begin = 0
        self.seen = 0
        self.best = math.inf
        self.noise = 0.0  # at the best level
        self.up_since: int | None = None
        self.down_since: int | None = None

    def back(self, step: int, place: Place) -> None:
        self.now.clear()
        self.slow.clear()
        self.up_since = None
        self.episodes.end(place.now)
        if step <= self.begin:
            self.first, self.best, self.seen = [], math.inf, 0

    def take(self, rule: LossDivergence, step: int, time: float, value: float, place: Place) -> None:
        if not math.isfinite(value):
            return
        if not self.first:
            self.begin = step
        if len(self.first) < 5:
            self.first.append(value)
        self.seen += 1
        self.now.add(value)
        self.slow.add(value)
        if self.seen < LEAST or len(self.now) < rule.points:
            return
        self.lacks = None
        level = self.now.median
        if len(self.slow) >= LEAST and self.slow.median < self.best:
            self.best, self.noise = self.slow.median, self.slow.sigma
        start = _start(self.first)
        noise = min(4 * self.noise, 2 * abs(start)) if start else 4 * self.noise
        worse = level - start > max(rule.above_start * abs(start), noise)
        lost = level - self.best
        gone = lost > max(rule.undone * (start - self.best), 6 * self.noise) and start > self.best
        if not gone:
            self.up_since = None
        elif self.up_since is None:
            self.up_since = step
        stays = self.up_since is not None and step - self.up_since >= rule.steps
        if self.episodes.current is not None:
            if worse or gone:
                self.down_since = None
            elif self.down_since is None:
                self.down_since = step
            elif step - self.down_since >= rule.steps:
                self.episodes.end(place.now)
            return
        if not worse and not stays:
            return
        where = (
            f"above {figure(start)} where it began" if worse else f"{lost / (start - self.best):.0%} of the way back"
        )
        self.episodes.begin(
            place.finding(
                f"loss has gone up from {figure(min(self.best, start))} to {figure(level)}, {where}",
                step,
                time,
                level,
                jump.causes(place.node, place.run, place.rank, step, time, lasting=True),
            )
        )


def _start(first: list[float]) -> float:
    """Return the loss at the start: the median of its first values, or the very first where they blow up from it."""
    if all(b > a for a, b in pairwise(first)) and first[-1] > 10 * abs(first[0]):
        return first[0]
    return sorted(first)[len(first) // 2]
