"""The loss scale of mixed precision falls and falls."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, Severity, Span, Verdict
from rankscope.agent.rules._causes import gradients, learning_rate
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class LossScaleCollapse:
    """The loss scale falls to below 1, or is halved again and again: the gradients overflow at every scale.

    A scaler that starts high halves its scale some times in the beginning and now and then later; that is its job. It
    has collapsed below `least`, or when it fell by the factor `fall` within `steps` steps after the first `settle`
    ones.

    Needs `grad_scale` (`watch()`, or logged); uses `grad_norm` and `lr`.

    Defaults: torch's GradScaler starts at 65,536 and doubles after 2,000 good steps. `least` 1, below which half
    precision loses gradients that it is there to save; `fall` 256, 8 halvings, in 100 steps; `settle` 100. Severity
    critical: next comes NaN.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("grad_scale",)
    severity: Severity = "critical"
    for_: Span = field(default_factory=Span)
    least: float = 1.0
    fall: float = 256.0
    steps: int = 100
    settle: int = 100

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "grad_scale", _Scales)


class _Scales(Fold[LossScaleCollapse]):
    def __init__(self) -> None:
        super().__init__()
        self.begin: int | None = None
        self.recent: deque[tuple[int, float]] = deque(maxlen=512)

    def back(self, step: int, place: Place) -> None:
        self.recent.clear()
        self.episodes.end(place.now)

    def take(self, rule: LossScaleCollapse, step: int, time: float, value: float, place: Place) -> None:
        if not value >= 0:
            return
        self.begin = step if self.begin is None else self.begin
        if not self.recent or value != self.recent[-1][1] or step - self.recent[-1][0] >= 10:
            self.recent.append((step, value))
        while step - self.recent[0][0] > rule.steps:
            self.recent.popleft()
        high = max((scale for at, scale in self.recent if at - self.begin >= rule.settle), default=value)
        tiny = value < rule.least
        fell = value > 0 and high / value >= rule.fall
        if self.episodes.current is not None:
            if not tiny and not fell:
                self.episodes.end(place.now)
            return
        if not tiny and not fell:
            return
        here = place.around(step, time)
        down = f"it fell from {figure(high)} to {figure(value)} within {rule.steps} steps"
        overflow = Cause(
            "gradients or activations overflow half precision",
            down if fell else f"the scale is {figure(value)}, and still gradients overflow",
            "compute in bf16; keep softmax, norms and losses in fp32; clip gradients after unscaling them",
        )
        causes = (overflow, gradients.exploding(here), learning_rate.too_large(here))
        self.episodes.begin(place.finding(f"loss scale fell to {figure(value)}", step, time, value, causes))
