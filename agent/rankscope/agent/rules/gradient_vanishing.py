"""The gradient is nearly 0 where there is still something to learn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Finding, Incomplete, Severity, Span, Verdict
from rankscope.agent.rules._causes import learning_rate, stuck
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._fold import Fold, Place
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.rules._sustained import Sustained
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class GradientVanishing:
    """The gradient does not arrive: it is nearly 0 in the first layer, or in all, while the loss is still high.

    With the norms of the first and the last layer (from `watch()`, or logged) the gradient vanishes on its way when the
    first is below the share `ratio` of the last and below `first`. Without them the whole norm counts, below `whole`.
    Either must hold for `points` logged values that span `steps` steps, and the loss must stand above a tenth of what
    it was at the start: a model that has learned its data by heart has no gradient left, and that is well.

    Needs `grad_norm`, or `first_layer_grad_norm` with `last_layer_grad_norm`; uses `loss`.

    Defaults: AUTOTRAINER (ICSE 2021) has `ratio` 1e-3 and `first` 1e-4; ratios of layers know no scale, where
    SageMaker's mean of 1e-7 fails under loss scaling. `whole` 1e-7.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("grad_norm",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    ratio: float = 1e-3
    first: float = 1e-4
    whole: float = 1e-7
    points: int = 5
    steps: int = 50

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            role = "first_layer_grad_norm" if rank.role("first_layer_grad_norm") is not None else "grad_norm"
            series = rank.role(role)
            if series is None:
                return Incomplete("no gradient norm was logged")
            memory = rank.memory(self, lambda: _Norms(self))
            place = Place(node, run, rank, now)
            if memory.role != role:  # norms of layers came later than the first whole norm
                memory.role, memory.reader.position = role, 0
            for piece in memory.reader.read(series):
                memory.read(self, piece, place)
            return memory.episodes.tell(now)

        return each_rank(run.ranks.values(), judge)


class _Norms(Fold[GradientVanishing]):
    def __init__(self, rule: GradientVanishing) -> None:
        super().__init__()
        self.role = ""
        self.small = Sustained(rule.points, rule.steps)
        self.start: float | None = None

    def back(self, step: int, place: Place) -> None:
        if self.small.reset():
            self.episodes.end(place.now)

    def take(self, rule: GradientVanishing, step: int, time: float, value: float, place: Place) -> None:
        layers = self.role == "first_layer_grad_norm"
        last = 0.0
        bad = value < (rule.first if layers else rule.whole)
        if bad and layers:
            found = place.role_at("last_layer_grad_norm", step)
            last = found if found is not None else place.role_at("grad_norm", step) or 0.0
            bad = value < rule.ratio * last or last == 0.0
        change = self.small.add(step, bad and self._high(step, place))
        if change == "ends":
            self.episodes.end(place.now)
        elif change == "begins":
            what = f"{figure(value)} in the first layer, {figure(last)} in the last" if layers else figure(value)
            here = place.around(step, time)
            causes = (stuck.dead(here), stuck.frozen(here), stuck.vanishing(here), learning_rate.too_large(here))
            self.episodes.begin(place.finding(f"gradient norm is {what}", step, time, value, causes))

    def _high(self, step: int, place: Place) -> bool:
        """Tell whether there is something to learn: the loss is not near 0."""
        series = place.rank.role("loss")
        if series is None or not len(series):
            return True
        if self.start is None:
            first = series.value[:5]
            first = first[np.isfinite(first)]
            self.start = float(np.median(first)) if len(first) else None
        loss = place.role_at("loss", step)
        return self.start is None or loss is None or loss > 0.1 * abs(self.start)
