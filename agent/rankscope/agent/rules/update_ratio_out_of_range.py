"""A step changes the weights by far too much, or by next to nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Severity, Span, Verdict
from rankscope.agent.rules._causes import learning_rate, stuck
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.rules._sustained import Sustained
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class UpdateRatioOutOfRange:
    """The size of an update against the size of the weights is out of range at several logged values in a row.

    About 1e-3 is usual. Above `large` the weights are no longer those that were trained; below `small` training stands
    still. Updates become small when the schedule ends: below `small` counts only while the learning rate stands above a
    hundredth of its peak, or where the ratio was never larger.

    Needs `update_ratio` (`watch()`, or logged); uses `lr`.

    Defaults: SageMaker's WeightUpdateRatio takes 10 and 1e-8. `large` 0.3: an update of a third of the weights, again
    and again, is no training any more; `small` 1e-8; 3 values over 20 steps.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("update_ratio",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    large: float = 0.3
    small: float = 1e-8
    points: int = 3
    steps: int = 20

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "update_ratio", lambda: _Ratios(self))


class _Ratios(Fold[UpdateRatioOutOfRange]):
    def __init__(self, rule: UpdateRatioOutOfRange) -> None:
        super().__init__()
        self.out = Sustained(rule.points, rule.steps)
        self.peak_rate = 0.0
        self.peak = 0.0

    def back(self, step: int, place: Place) -> None:
        if self.out.reset():
            self.episodes.end(place.now)

    def take(self, rule: UpdateRatioOutOfRange, step: int, time: float, value: float, place: Place) -> None:
        if not math.isfinite(value):
            return
        rate = place.role_at("lr", step)
        self.peak_rate = max(self.peak_rate, rate or 0.0)
        self.peak = max(self.peak, value)
        small = value < rule.small
        if small and (self.peak >= rule.small if rate is None else rate <= 0.01 * self.peak_rate):
            small = False
        change = self.out.add(step, small or value > rule.large)
        if change == "ends":
            self.episodes.end(place.now)
        elif change == "begins":
            here = place.around(step, time)
            causes = (stuck.frozen(here), learning_rate.too_small(here)) if small else (learning_rate.too_large(here),)
            summary = f"a step changes the weights by {figure(value)} of their size"
            self.episodes.begin(place.finding(summary, step, time, value, causes))
