"""The loss no longer falls, or never did."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import FloatArray, Severity, Span, Verdict
from rankscope.agent.rules._causes import stuck
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.rules._history import History
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class LossPlateau:
    """The training loss has not fallen for most of the run: it never learned, or stopped early.

    Every run ends on a plateau, and noise makes any ten losses look flat, so a short window says nothing. This rule
    looks at the share `flat` of the run so far, all but its beginning, in four quarters, and fires only when the last
    one surely (by two standard errors) lies less than the share `progress` below the first two: where noise hides how
    much was gained it waits for more points. It is asked only after `steps` steps and 100 points, and not while the
    learning rate is in its warm-up. A run that has learned until lately is silent, however slow it has become.

    Needs `loss`; uses `lr`, `update_ratio`, gradient norms. Points of steps that are trained again do not count.

    Defaults: SageMaker's LossNotDecreasing asks for 0.1 % in 10 steps, FIELD's proposal for at least 200 steps. `flat`
    0.8 means that whatever was learned was learned in the first fifth; `progress` 2 %; `steps` 300.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    flat: float = 0.8  # share of the run without progress
    progress: float = 0.02  # share of the loss, or of what was learned, that counts as progress
    steps: int = 300  # before it is asked

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "loss", _Loss)


LEAST = 100  # points before it is asked
SURE = 2.0  # standard errors
MEDIAN = 1.253  # standard error of a median over that of a mean, for normal noise
FIRST = 8  # points that make the loss at the start


class _Loss(Fold[LossPlateau]):
    def __init__(self) -> None:
        super().__init__()
        self.lacks = f"fewer than {LEAST} losses were logged"
        self.history = History()
        self.first: list[float] = []
        self.begin: int | None = None
        self.bins = 0
        self.peak = 0.0  # highest learning rate
        self.looked: tuple[int, float] | None = None

    def back(self, step: int, place: Place) -> None:
        self.history.back(step)
        if self.begin is not None and step <= self.begin:
            self.first, self.begin = [], None

    def take(self, rule: LossPlateau, step: int, time: float, value: float, place: Place) -> None:
        if not math.isfinite(value):
            return
        if self.begin is None:
            self.begin = step
        if len(self.first) < FIRST:
            self.first.append(value)
        if not self.history.add(step, value) or self.history.points < LEAST or step - self.begin < rule.steps:
            return
        self.bins += 1
        if self.bins % 4 and self.history.width == 1:
            return
        self.lacks = None
        self._judge(rule, step, time, value, place)

    def _judge(self, rule: LossPlateau, step: int, time: float, value: float, place: Place) -> None:
        assert self.begin is not None
        if self._warming(step, place):
            return
        since = step - rule.flat * (step - self.begin)
        bins = [one for one in self.history.bins if one.first >= since]
        if len(bins) < 16:
            return
        quarters = np.array_split(np.array([one.mean for one in bins]), 4)
        stuck_at = float(np.median(quarters[3]))
        start = float(np.median(self.first))
        gain, error = _gain(quarters)
        learned = max(0.0, start - min(float(np.median(quarter)) for quarter in quarters))
        # What a run that learns would gain: in proportion to the loss, or to what it learned where the loss is
        # large. One
        # that has hardly begun may be slow.
        slow = learned < 0.05 * abs(start)
        goal = rule.progress / 4 * abs(stuck_at) if slow else rule.progress * min(abs(stuck_at), learned)
        if self.episodes.current is not None:
            if gain - SURE * error > goal:
                self.episodes.end(place.now)
            return
        if gain + SURE * error >= goal:
            return
        never = start - stuck_at < max(SURE * error, goal)
        what = "never fell" if never else f"fell from {figure(start)} in the beginning and then no more"
        self.episodes.begin(
            place.finding(
                f"loss {what}: {figure(stuck_at)} for {step - bins[0].first} of {step - self.begin} steps",
                step,
                time,
                stuck_at,
                stuck.causes(place.around(step, time), never=never),
            )
        )

    def _warming(self, step: int, place: Place) -> bool:
        """Tell whether the learning rate still goes up to its peak."""
        rate = place.role_at("lr", step)
        if rate is None or self.begin is None:
            return False
        before = place.role_at("lr", step - max(1, (step - self.begin) // 5))
        return before is not None and rate > 1.1 * before


def _gain(quarters: list[FloatArray]) -> tuple[float, float]:
    """Return by how much the last quarter lies below the two first, and the standard error of that; outliers do not
    count.
    """
    levels = [float(np.median(quarter)) for quarter in quarters]
    steps = np.diff(np.concatenate(quarters))  # differences of neighbours see the noise and not the trend
    noise = float(np.median(np.abs(steps - np.median(steps)))) / 0.6745 / math.sqrt(2)
    error = noise * MEDIAN * math.sqrt(1 / len(quarters[3]) + 1 / (len(quarters[0]) + len(quarters[1])))
    return min(float(np.median(np.concatenate(quarters[:2]))), levels[1]) - levels[3], error
