"""Units of the network sit at the flat ends of their sigmoid or tanh."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, Severity, Span, Verdict
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.rules._sustained import Sustained
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class SaturatedActivations:
    """Most units of a layer are saturated: their sigmoid or tanh lies where its slope is nearly 0, so they no longer
    learn.

    Needs `saturated_fraction`, the share of saturated units (what `watch()` gives, or the run logs). It must exceed
    `threshold` at `points` logged values in a row that span `steps` steps.

    Defaults: `threshold` 0.5 as SageMaker's SaturatedActivation, which calls an input of tanh beyond 9.4999 and of
    sigmoid below -23 or above 17 saturated; 5 values over 30 steps, so that one odd batch is none.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("saturated_fraction",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    threshold: float = 0.5
    points: int = 5
    steps: int = 30

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "saturated_fraction", lambda: _Shares(self))


class _Shares(Fold[SaturatedActivations]):
    def __init__(self, rule: SaturatedActivations) -> None:
        super().__init__()
        self.saturated = Sustained(rule.points, rule.steps)

    def back(self, step: int, place: Place) -> None:
        if self.saturated.reset():
            self.episodes.end(place.now)

    def take(self, rule: SaturatedActivations, step: int, time: float, value: float, place: Place) -> None:
        change = self.saturated.add(step, value > rule.threshold)
        if change == "ends":
            self.episodes.end(place.now)
        elif change == "begins":
            cause = Cause(
                "inputs of sigmoid or tanh are too large",
                f"{value:.0%} of the units lie where the slope is nearly 0",
                "normalise inputs and layers, use Xavier initialisation, a smaller learning rate, or "
                "ReLU-like activations",
            )
            self.episodes.begin(place.finding(f"{value:.0%} of the units are saturated", step, time, value, (cause,)))
