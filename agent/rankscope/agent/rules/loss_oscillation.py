"""The loss swings to and fro instead of settling."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, FloatArray, Severity, Span, Verdict
from rankscope.agent.rules._causes import learning_rate
from rankscope.agent.rules._causes.around import Around, figure
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class LossOscillation:
    """The training loss swings far and lastingly: up and down in turn, or many times wider than it did before.

    Noise alone is no oscillation, however wide. Two things are: losses that go up and down in turn (their changes point
    the other way each time: a correlation below `turns` between neighbours where noise has -0.5), and swings that have
    become `wider` times what they were in the calmest stretch of the run. Either must span the share `swing` of what
    the run has learned, over the last `points` points.

    Needs `loss`, twice `points` of it; uses `lr` and `grad_norm`.

    Defaults: AUTOTRAINER calls a run unstable when its accuracy swings by 0.03 in a fifth of its epochs. `wider` 6,
    `swing` 0.15, `turns` -0.85 (unreachable for noise over 100 points), `points` 100.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    points: int = 100
    wider: float = 6.0
    swing: float = 0.15  # of what was learned
    turns: float = -0.85

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "loss", lambda: _Loss(self.points))


TURNS = 6  # times that the loss must swing to the other side: a new level does so once
EVERY = 20  # points between two judgements


class _Loss(Fold[LossOscillation]):
    def __init__(self, points: int) -> None:
        super().__init__()
        self.lacks = f"fewer than {2 * points} losses were logged"
        self.recent: deque[float] = deque(maxlen=points)
        self.first: list[float] = []
        self.seen = 0
        self.best = math.inf  # lowest level
        self.past: deque[tuple[float, float]] = deque(maxlen=64)  # level and swing of earlier windows
        self.times = 0  # judgements in a row that found it

    def back(self, step: int, place: Place) -> None:
        self.recent.clear()
        self.times = 0
        self.episodes.end(place.now)

    def take(self, rule: LossOscillation, step: int, time: float, value: float, place: Place) -> None:
        if not math.isfinite(value):
            return
        self.seen += 1
        self.recent.append(value)
        if len(self.first) < 5:
            self.first.append(value)
        if self.seen % EVERY or len(self.recent) < rule.points:
            return
        window = np.array(self.recent)
        level = float(np.median(window))
        swing = _swing(window)
        self.best = min(self.best, level)
        learned = sorted(self.first)[len(self.first) // 2] - self.best
        if self.seen >= 2 * rule.points:
            self.lacks = None
        found = self._found(rule, window, level, swing, learned)
        self.times = self.times + 1 if found else 0
        if self.seen % rule.points == 0:
            self.past.append((level, swing))
            if len(self.past) == self.past.maxlen:
                self.past = deque(list(self.past)[1::2], maxlen=self.past.maxlen)
        if self.episodes.current is not None:
            if not found and swing < rule.swing * learned / 2:
                self.episodes.end(place.now)
        elif found is not None and self.times >= 3 and self.seen >= 2 * rule.points:
            low, high = (float(x) for x in np.percentile(window, [5, 95]))
            summary = f"loss swings between {figure(low)} and {figure(high)} over {rule.points} points, {found}"
            here = place.around(step, time)
            causes = (learning_rate.too_large(here), _momentum(here), _batch(here))
            self.episodes.begin(place.finding(summary, step, time, swing, causes))

    def _found(
        self, rule: LossOscillation, window: FloatArray, level: float, swing: float, learned: float
    ) -> str | None:
        if learned <= 0 or swing < rule.swing * learned:
            return None
        if turning(np.diff(window)) < rule.turns:
            return "up and down in turn"
        # A loss that has yet to fall is calm as well: only what stood about as low as this one counts.
        calm = min((past for low, past in self.past if low <= level + 0.1 * learned), default=math.inf)
        if swing > rule.wider * calm and turns(window, swing / 4) >= TURNS:
            return f"{swing / calm:.0f} times wider than before" if calm > 0 else "where it stood still before"
        return None


def _swing(window: FloatArray) -> float:
    """Return the width of the loss' swings: from the 10th to the 90th percentile of what a straight line leaves."""
    x = np.arange(len(window))
    slope = np.median(window[len(window) // 2 :]) - np.median(window[: len(window) // 2])
    left = window - slope * x / (len(window) / 2)
    low, high = np.percentile(left, [10, 90])
    return float(high - low)


def turns(window: FloatArray, band: float) -> int:
    """Return how often the values go from `band` above their median to as far below it, or back."""
    side = np.sign(window - np.median(window)) * (np.abs(window - np.median(window)) > band)
    sides = side[side != 0]
    return int(np.count_nonzero(np.diff(sides)))


def turning(changes: FloatArray) -> float:
    """Return the correlation of each change with the next: -0.5 for noise, near -1 for up and down in turn."""
    a, b = changes[:-1], changes[1:]
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _momentum(here: Around) -> Cause | None:
    found = here.setting("momentum", "beta1", "betas")
    if found is None:
        return None
    return Cause(
        "momentum is too large for this learning rate",
        f"{found[0]} is {found[1]}",
        "lower momentum, or the learning rate with it",
    )


def _batch(here: Around) -> Cause | None:
    found = here.setting("batch_size")
    if found is None:
        return None
    return Cause("the batch is too small", f"{found[0]} is {found[1]}", "raise the batch size, or accumulate gradients")
