"""Parameters do not change although the optimiser steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Finding, Incomplete, Severity, Span, Verdict
from rankscope.agent.rules._causes import learning_rate, stuck
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._fold import Fold, Place
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.rules._sustained import Sustained
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class FrozenParameters:
    """Parameters that should be trained do not change from step to step, although the learning rate is not 0.

    Fires when the share of unchanged parameters exceeds `threshold`, or where only the ratio of update to weight is
    known, when that is below `ratio`, at `points` logged values in a row that span `steps` steps. A learning rate that
    has come down to less than a hundredth of its peak may leave weights as they are: then it is silent. So it is when
    most parameters never changed and the loss falls all the same: adapters train few parameters on purpose.

    Needs `unchanged_fraction` or `update_ratio`; uses `lr`, `loss`.

    Defaults: SageMaker's UnchangedTensor looks at 3 steps, its WeightUpdateRatio takes 1e-8. `threshold` 0.9, `ratio`
    1e-9, 3 values over 20 steps, so that the steps a loss scaler skips are none.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("unchanged_fraction", "update_ratio")
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    threshold: float = 0.9
    ratio: float = 1e-9
    points: int = 3
    steps: int = 20

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            role = "unchanged_fraction" if rank.role("unchanged_fraction") is not None else "update_ratio"
            series = rank.role(role)
            if series is None:
                return Incomplete("neither unchanged parameters nor update ratios were logged")
            memory = rank.memory(self, lambda: _Updates(self))
            if memory.role != role:
                memory.role, memory.reader.position = role, 0
            place = Place(node, run, rank, now)
            for piece in memory.reader.read(series):
                memory.read(self, piece, place)
            return memory.episodes.tell(now)

        return each_rank(run.ranks.values(), judge)


class _Updates(Fold[FrozenParameters]):
    def __init__(self, rule: FrozenParameters) -> None:
        super().__init__()
        self.role = ""
        self.still = Sustained(rule.points, rule.steps)
        self.peak = 0.0  # highest learning rate
        self.lowest = 1.0  # smallest share of unchanged parameters so far

    def back(self, step: int, place: Place) -> None:
        if self.still.reset():
            self.episodes.end(place.now)

    def take(self, rule: FrozenParameters, step: int, time: float, value: float, place: Place) -> None:
        rate = place.role_at("lr", step)
        self.peak = max(self.peak, rate or 0.0)
        shares = self.role == "unchanged_fraction"
        bad = value > rule.threshold if shares else value < rule.ratio
        self.lowest = min(self.lowest, value) if shares else self.lowest
        if bad and rate is not None and rate < 0.01 * self.peak:
            bad = False
        if bad and shares and value < 1.0 and self.lowest > 0.5 and _falling(step, place):
            bad = False
        change = self.still.add(step, bad)
        if change == "ends":
            self.episodes.end(place.now)
        elif change == "begins":
            here = place.around(step, time)
            what = (
                f"{value:.0%} of the parameters do not change"
                if shares
                else f"updates are {figure(value)} of the weights"
            )
            causes = (stuck.frozen(here), stuck.dead(here), learning_rate.too_small(here))
            self.episodes.begin(place.finding(what, step, time, value, causes))


def _falling(step: int, place: Place) -> bool:
    """Tell whether the loss has fallen clearly since the start of its window."""
    series = place.rank.role("loss")
    if series is None or len(series) < 20:
        return False
    first, last = series.value[:10], series.value[-10:]
    return float(last.max()) < float(first.min()) or float(last.mean()) < float(first.mean()) - 2 * float(first.std())
