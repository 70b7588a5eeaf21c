"""The gradient norm grows out of all proportion, and not for one step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, Severity, Span, Verdict
from rankscope.agent.rules._causes import gradients, hardware, learning_rate
from rankscope.agent.rules._causes.around import Around, figure
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.rules._spread import Spread
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class GradientExplosion:
    """The gradient norm is many times what it was, or not finite, at several steps in a row.

    Fires at `times` the median of the last `window` norms, above the largest of them and by `logarithm` deviations of
    their logarithm (the norms of small batches span powers of ten), at `several` of the last 5 points; or when the
    upper norms of the last points have grown to `grown` times what they were when the loss was at its best, while the
    loss has become worse; or when the norm is not finite at `endless` points in a row. One large norm is no explosion:
    clipping takes care of it, and so does a loss scaler of the few infinite ones it makes when it looks for its scale.
    Nor is it one while the loss falls below what it was, or when the loss jumped first: then LossSpike tells it. A norm
    that grows slowly over a run, as they do, moves its median along.

    Needs `grad_norm`, 20 points of it; uses `loss` and `lr`.

    Defaults: FIELD proposes 10 times the running median; AUTOTRAINER 70 times between first and last layer. `times` 10,
    `window` 128, `several` 3, `endless` 8: a loss scaler that starts at 65,536 and halves needs more only where scaling
    has failed.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("grad_norm",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    times: float = 10.0
    window: int = 128
    logarithm: float = 4.0  # deviations of the norms' logarithm
    several: int = 3  # of the last 5 points
    grown: float = 5.0  # times the norm at the best loss
    endless: int = 8  # points in a row that are not finite

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "grad_norm", lambda: _Norms(self.window))


LEAST = 20
FOLLOWS = 32  # points
CALM = 5  # usual norms in a row that end it


class _Norms(Fold[GradientExplosion]):
    def __init__(self, window: int) -> None:
        super().__init__()
        self.lacks = f"fewer than {LEAST} gradient norms were logged"
        self.usual = Spread(window)
        self.waiting: list[float] = []  # large norms that are not yet called usual
        self.large = [False] * 5
        self.endless = 0
        self.calm = 0
        self.seen = 0
        self.late = Spread(32)
        self.best: tuple[float, float] | None = None  # lowest loss so far, and the upper norms then
        self.follows = 0  # points for which large norms follow from a jump of the loss
        self.looks = 0  # looks in a row that found them grown
        self.start: float | None = None  # loss at the first look

    def back(self, step: int, place: Place) -> None:
        self.waiting.clear()
        self.large = [False] * 5
        self.endless = 0
        self.episodes.end(place.now)

    def take(self, rule: GradientExplosion, step: int, time: float, value: float, place: Place) -> None:
        if not math.isfinite(value):
            self.endless += 1
            self.calm = 0
            if self.endless == rule.endless and self.episodes.current is None:
                self.lacks = None
                self._begin(f"gradient norm is not finite at {self.endless} points in a row", step, time, value, place)
            return
        self.endless = 0
        usual = self.usual
        if len(usual) < LEAST:
            usual.add(value)
            return
        self.lacks = None
        large = value > rule.times * usual.median and value > usual.high and value > 0
        large = large and usual.farther(value) > rule.logarithm and not _learning(place, step)
        if self.episodes.current is not None:
            self.calm = 0 if large else self.calm + 1
            if not large:
                usual.add(value)
            if self.calm >= CALM:
                self.episodes.end(place.now)
            return
        if large and not self.waiting and _jumped(place, step):
            self.follows = FOLLOWS
        if self.follows:
            self.follows -= 1
            return
        self.seen += 1
        self.late.add(value)
        if self.seen % 16 == 0 and (grown := self._grown(rule, step, place)) is not None:
            self._begin(grown, step, time, value, place)
            return
        self.large = [*self.large[1:], large]
        if sum(self.large) >= rule.several:
            before = usual.median
            self.waiting.clear()
            self.large = [False] * 5
            times = f", {value / before:.0f} times its median" if before > 0 else ""
            self._begin(f"gradient norm went from {figure(before)} to {figure(value)}{times}", step, time, value, place)
        elif large:
            self.waiting.append(value)
        else:
            if self.waiting and not any(self.large):
                for waiting in self.waiting:
                    usual.add(waiting)
                self.waiting.clear()
            usual.add(value)

    def _grown(self, rule: GradientExplosion, step: int, place: Place) -> str | None:
        """Return how far the norms have grown since the loss was at its best, where that is an explosion."""
        losses = place.around(step + 1, place.now).before("loss", 32)
        losses = losses[np.isfinite(losses)]
        if len(losses) < 16 or len(self.late) < 32:
            return None
        loss, upper = float(np.median(losses)), self.late.quantile(0.75)
        if self.start is None:
            self.start = loss
        if self.best is None or loss <= self.best[0]:
            self.best, self.looks = (loss, upper), 0
            return None
        falling = float(np.median(losses[16:])) < float(np.median(losses[:16]))  # as after a change of the data
        gone = loss - self.best[0] > 0.1 * max(self.start - self.best[0], 0.1 * abs(self.best[0]))
        grown = upper >= rule.grown * self.best[1] > 0
        self.looks = self.looks + 1 if gone and grown and not falling else 0
        if self.looks < 3:
            return None
        return f"gradient norm grew to {upper / self.best[1]:.0f} times what it was when the loss was best"

    def _begin(self, summary: str, step: int, time: float, value: float, place: Place) -> None:
        self.calm = 0
        here = place.around(step, time)
        causes = (hardware.fault(here), learning_rate.too_large(here), _unclipped(here), gradients.exploding(here))
        self.episodes.begin(place.finding(summary, step, time, value, causes))


def _jumped(place: Place, step: int) -> bool:
    """Tell whether the loss had jumped already when the norm did: then the loss is the matter, and the norm follows."""
    here = place.around(step, place.now)
    before, at = here.before("loss", 64), here.at("loss")
    before = before[np.isfinite(before)]
    if len(before) < 16 or at is None:
        return False
    low, middle, high = (float(x) for x in np.percentile(before, [25, 50, 75]))
    return at > max(middle + 6 * (high - low) / 1.349, float(before.max()))


def _learning(place: Place, step: int) -> bool:
    """Tell whether the loss falls: where learning begins, norms grow from next to nothing."""
    values = place.around(step + 1, place.now).before("loss", 64)
    values = values[np.isfinite(values)]
    if len(values) < 16:
        return False
    return float(np.median(values[-4:])) < float(np.percentile(values[:-8], 25))


def _unclipped(here: Around) -> Cause | None:
    """Gradients are not clipped. Contradicted by a configuration that clips."""
    clip = here.setting("clip", "max_grad_norm")
    if clip is not None and clip[1]:
        return None
    usual = here.usual("grad_norm")
    evidence = f"{clip[0]} is {clip[1]}" if clip is not None else "the configuration names no clipping"
    fix = f"clip the gradient norm, to about {figure(2 * usual)} for example" if usual else "clip the gradient norm"
    return Cause("gradients are not clipped", evidence, fix)
