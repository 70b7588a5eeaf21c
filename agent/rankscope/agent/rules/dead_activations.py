"""Units of the network give 0 whatever comes in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, Severity, Span, Verdict
from rankscope.agent.rules._causes import learning_rate, stuck
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.rules._sustained import Sustained
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class DeadActivations:
    """Most units of a layer are dead: their ReLU gives 0 for every sample of the batch, so they no longer learn.

    Needs `dead_fraction` (what `watch()` gives, or the run logs): the share of dead units, in the worst layer or over
    all. It must exceed `threshold` at `points` logged values in a row that span `steps` steps.

    Defaults: `threshold` 0.7, as AUTOTRAINER has it (ICSE 2021); SageMaker's DeadRelu takes 0.5, which narrow healthy
    networks come near. 5 values over 30 steps, so that one odd batch is none.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("dead_fraction",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    threshold: float = 0.7
    points: int = 5
    steps: int = 30

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "dead_fraction", lambda: _Shares(self))


class _Shares(Fold[DeadActivations]):
    def __init__(self, rule: DeadActivations) -> None:
        super().__init__()
        self.dead = Sustained(rule.points, rule.steps)

    def back(self, step: int, place: Place) -> None:
        if self.dead.reset():
            self.episodes.end(place.now)

    def take(self, rule: DeadActivations, step: int, time: float, value: float, place: Place) -> None:
        change = self.dead.add(step, value > rule.threshold)
        if change == "ends":
            self.episodes.end(place.now)
        elif change == "begins":
            here = place.around(step, time)
            self.episodes.begin(
                place.finding(
                    f"{value:.0%} of the units are dead",
                    step,
                    time,
                    value,
                    (learning_rate.too_large(here), _initialisation(place, step, time), stuck.dead(here)),
                )
            )


def _initialisation(place: Place, step: int, time: float) -> Cause | None:
    """They were dead from the start. Contradicted by a share that was small once."""
    series = place.rank.role("dead_fraction")
    if series is None or series.count > len(series) or float(series.value[0]) < 0.5:
        return None
    return Cause(
        "the network was initialised dead",
        f"{float(series.value[0]):.0%} were dead at step {int(series.step[0])} already",
        "use He initialisation and biases of 0; normalise the inputs",
    )
