"""A condition of the user's own on what the run logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Finding, Incomplete, Severity, Span, Verdict
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._episodes import Episodes
from rankscope.agent.rules._expression import Expression
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.rules._reading import Reader
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.roles import fold
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class MetricThreshold:
    """A condition of your own on logged metrics, such as `val_accuracy < 0.5` or `loss > 2 * val_loss and lr > 0`.

    Names are those that the run logs, or roles; names with `/`, `.` or `-` stand in quotes: `"eval/accuracy" < 0.5`.
    There are `+ - * /`, comparisons, `and or not`, and the functions abs, min, max, log, exp, sqrt, isnan, isfinite.
    Every metric counts with its newest value, and the condition is judged whenever one of them comes.

    Needs the metrics that it names. Is silent for the first `after` (steps or seconds).

    Defaults: none; it does nothing until it is configured.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("the metrics that it names",)
    name: str  # of the alert
    expr: str
    after: Span = field(default_factory=Span)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    expression: Expression = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError when the expression is none."""
        self.expression = Expression(self.expr)

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            memory = rank.memory(self, _Values)
            lacking = memory.find(self.expression.names, rank)
            if lacking is not None:
                return Incomplete(f"no {lacking} was logged")
            memory.read(self, rank, now)
            return memory.episodes.tell(now)

        return each_rank(run.ranks.values(), judge)


def find(rank: Rank, name: str) -> Series | None:
    """Return the series that a name means: of this name, of this role, or of this name but for case and `/ . - _`."""
    series = rank.series.get(name) or rank.role(name)
    if series is None and (role := rank.roles.of(name)) is not None:
        series = rank.role(role)
    if series is None:
        series = next((found for key, found in rank.series.items() if fold(key) == fold(name)), None)
    return series


class _Values:
    """The newest value of each metric of an expression."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.readers: dict[str, Reader] = {}
        self.values: dict[str, float] = {}
        self.episodes = Episodes()
        self.begin: tuple[int, float] | None = None

    def find(self, names: list[str], rank: Rank) -> str | None:
        """Find the series of the names; return the first that is missing."""
        for name in names:
            if name not in self.series:
                found = find(rank, name)
                if found is None:
                    return name
                self.series[name] = found
                self.readers[name] = Reader()
        return None

    def read(self, rule: MetricThreshold, rank: Rank, now: float) -> None:
        news: list[tuple[int, float, str, float]] = []
        for name, series in self.series.items():
            for piece in self.readers[name].read(series):
                points = zip(piece.step.tolist(), piece.time.tolist(), piece.value.tolist(), strict=True)
                news.extend((step, time, name, value) for step, time, value in points)
        if len(self.series) > 1:
            news.sort(key=lambda one: one[0])
        for at, (step, time, name, value) in enumerate(news):
            self.values[name] = value
            self.begin = self.begin or (step, time)
            together = at + 1 < len(news) and news[at + 1][0] == step and len(self.series) > 1
            if not together and len(self.values) == len(self.series):
                self._judge(rule, rank, step, time, now)

    def _judge(self, rule: MetricThreshold, rank: Rank, step: int, time: float, now: float) -> None:
        assert self.begin is not None
        early = step - self.begin[0] < rule.after.steps or time - self.begin[1] < rule.after.seconds
        holds = not early and rule.expression.holds(self.values)
        if not holds:
            self.episodes.end(now)
        elif self.episodes.current is None:
            shown = ", ".join(f"{name} is {figure(value)}" for name, value in self.values.items())
            value = self.values[rule.expression.names[0]]
            self.episodes.begin(Finding(f"{rule.expr}: {shown}", step, time, value, rank.info.key.rank))
