"""The learning rate is what no schedule means."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, Severity, Span, Verdict
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class LearningRateAnomaly:
    """The learning rate is not finite or negative, stays 0 while training goes on, or jumps above all that it was
    before.

    Warm-up, decay, steps down and warm restarts (back to a former peak, or below it) are schedules, and silent. A rate
    of 0 counts after `steps` steps and 20 points: as a warning when it was never anything else, as advice when a
    schedule has come to its end. A jump counts when the rate goes in one step above `jump` times its former peak, after
    20 points.

    Needs `lr`.

    Defaults: no published rule covers the learning rate. `jump` 5: warm restarts that grow do so by less; `steps` 50.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("lr",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    jump: float = 5.0  # times the former peak
    steps: int = 50  # of a rate of 0

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "lr", _Rates)


LEAST = 20  # points


class _Rates(Fold[LearningRateAnomaly]):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.peak = 0.0
        self.before = 0.0
        self.zeros = 0
        self.zero_since = 0

    def back(self, step: int, place: Place) -> None:
        self.zeros = 0
        self.episodes.end(place.now)

    def take(self, rule: LearningRateAnomaly, step: int, time: float, value: float, place: Place) -> None:
        self.seen += 1
        current = self.episodes.current
        if not math.isfinite(value) or value < 0:
            if current is None:
                cause = Cause(
                    "the schedule computes it wrongly",
                    f"it was {figure(self.before)} before",
                    "check the schedule's formula and its step",
                )
                summary = f"learning rate is {figure(value)}"
                self.episodes.begin(place.finding(summary, step, time, value, (cause,)))
            return
        if value == 0:
            self._zero(rule, step, time, place)
        else:
            self.zeros = 0
            if current is not None and not (value > self.peak and self.seen > LEAST):
                self.episodes.end(place.now)
            elif current is None and self.seen > LEAST and self.peak > 0 and value > rule.jump * self.peak:
                cause = Cause(
                    "the schedule jumps",
                    f"it was {figure(self.before)} at the point before, and never above {figure(self.peak)}",
                    "check milestones, warm restarts, and that a resumed run restores its scheduler",
                )
                summary = (
                    f"learning rate jumped from {figure(self.before)} to {figure(value)}, "
                    f"{value / self.peak:.0f} times its peak"
                )
                self.episodes.begin(place.finding(summary, step, time, value, (cause,)))
            self.peak = max(self.peak, value)
        self.before = value

    def _zero(self, rule: LearningRateAnomaly, step: int, time: float, place: Place) -> None:
        if not self.zeros:
            self.zero_since = step
        self.zeros += 1
        if self.episodes.current is not None or self.zeros < LEAST or step - self.zero_since < rule.steps:
            return
        if self.peak > 0:
            evidence = f"it came down from {figure(self.peak)} and has been 0 since step {self.zero_since}"
            cause = Cause(
                "the schedule has come to its end",
                evidence,
                "stop here, or plan the schedule for as many steps as are trained",
            )
            finding = replace(
                place.finding("learning rate is 0 and training goes on", step, time, 0.0, (cause,)), severity="info"
            )
        else:
            cause = Cause(
                "the schedule never starts",
                f"it has been 0 for {step - self.zero_since} steps",
                "check the warm-up, and that scheduler.step() is called",
            )
            finding = place.finding("learning rate is 0 since the start", step, time, 0.0, (cause,))
        self.episodes.begin(finding)
