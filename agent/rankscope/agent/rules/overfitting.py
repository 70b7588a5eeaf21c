"""The validation loss rises while the training loss does not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, Severity, Span, Verdict
from rankscope.agent.rules._causes.around import Around, figure
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class Overfitting:
    """The validation loss rises from its best value while the training loss goes on falling or stands still.

    Evaluations are few and noisy, so one bad evaluation means nothing. The rule looks at all evaluations since the best
    one: there must be `patience` of them, a trend test (Mann-Kendall) must call them rising beyond doubt, and the median of
    the newest three must lie the share `rise` above the best. A training loss that rises as well is a divergence, not
    overfitting. A gap between training and validation loss alone is none: dropout and augmentation make one either way.

    Needs `val_loss`; uses `loss`. Tells the best step, to which one would go back.

    Defaults: SageMaker's Overfit fires at once on a gap of 10 %, its Overtraining after 10 evaluations without a new
    optimum; FIELD proposes a rising validation loss over at least 3 evaluations. `patience` 5 and a trend of 3 standard
    deviations make one false alarm in some thousand runs; `rise` 5 %.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("val_loss",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    patience: int = 5  # evaluations since the best
    rise: float = 0.05  # of the best validation loss
    trend: float = 2.5  # deviations of Mann-Kendall's test

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "val_loss", _Evaluations)


MOST = 256  # evaluations that are kept


class _Evaluations(Fold[Overfitting]):
    def __init__(self) -> None:
        super().__init__()
        self.lacks = "fewer than 3 evaluations"
        self.steps: list[int] = []
        self.values: list[float] = []
        self.best = 0  # index
        self.start: float | None = None  # training loss at the first evaluation

    def back(self, step: int, place: Place) -> None:
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
        self.best = int(np.argmin(self.values)) if self.values else 0
        self.episodes.end(place.now)

    def take(self, rule: Overfitting, step: int, time: float, value: float, place: Place) -> None:
        if not math.isfinite(value):
            return
        if self.start is None:
            self.start = _start(place)
        self.steps.append(step)
        self.values.append(value)
        if len(self.values) > MOST:
            drop = 1 if self.best > 1 else 2  # never the best one
            del self.steps[drop - 1], self.values[drop - 1]
            self.best = max(0, self.best - 1) if drop == 1 else self.best
        if value < self.values[self.best]:
            self.best = len(self.values) - 1
            self.episodes.end(place.now)
        if len(self.values) >= 3:
            self.lacks = None
        if self.episodes.current is None:
            self._judge(rule, step, time, place)

    def _judge(self, rule: Overfitting, step: int, time: float, place: Place) -> None:
        since = np.array(self.values[self.best :])
        lowest = float(since[0])
        newest = float(np.median(since[-3:]))
        if len(since) - 1 < rule.patience or newest - lowest < rule.rise * abs(lowest):
            return
        if rising(since) < rule.trend:
            return
        here = place.around(step, time)
        train = _training(here, self.steps[self.best], step)
        if train is not None and self.start is not None and train[1] > self.start - 0.02 * abs(self.start):
            return  # what has learned nothing has learned nothing by heart
        if train is not None and train[1] > train[0] + 0.1 * (newest - lowest) + 0.02 * abs(train[0]):
            return
        best = self.steps[self.best]
        self.episodes.begin(
            place.finding(
                f"validation loss rose from {figure(lowest)} at step {best}, its best, to {figure(newest)}",
                step,
                time,
                newest,
                _causes(here, best, lowest, train),
            )
        )


def rising(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Return Mann-Kendall's statistic: how surely the values rise, in standard deviations (positive: rising)."""
    n = len(values)
    score = float(np.sign(values[None, :] - values[:, None])[np.triu_indices(n, 1)].sum())
    deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return (score - math.copysign(1, score)) / deviation if score else 0.0


def _start(place: Place) -> float | None:
    """Return the training loss at the start, or None where it is not known."""
    series = place.rank.role("loss")
    if series is None or len(series) < 5 or series.count > len(series):
        return None
    first = series.value[:5]
    first = first[np.isfinite(first)]
    return float(np.median(first)) if len(first) else None


def _training(here: Around, best: int, step: int) -> tuple[float, float] | None:
    """Return the training loss around the best evaluation and now, or None where it is not known."""
    series = here.rank.role("loss")
    if series is None:
        return None
    at, end = np.searchsorted(series.step, [best, step], side="right")
    then, now = series.value[max(0, int(at) - 16) : int(at) + 1], series.value[max(0, int(end) - 16) : int(end)]
    then, now = then[np.isfinite(then)], now[np.isfinite(now)]
    if not len(then) or not len(now):
        return None
    return float(np.median(then)), float(np.median(now))


def _causes(here: Around, best: int, lowest: float, train: tuple[float, float] | None) -> tuple[Cause, ...]:
    evidence = f"the best validation loss, {figure(lowest)}, was at step {best}, {here.step - best} steps ago"
    if train is not None:
        evidence += f"; the training loss went from {figure(train[0])} to {figure(train[1])} since"
    stop = Cause(
        "the run goes on beyond its best point",
        evidence,
        f"stop early, and go back to the checkpoint nearest to step {best}",
    )
    capacity = [part for part in (here.setting("lora_r", "rank"), here.setting("layers", "hidden", "d_model")) if part]
    regular = [part for part in (here.setting("dropout"), here.setting("weight_decay")) if part]
    known = ", ".join(f"{key} is {value}" for key, value in (*regular, *capacity)) or "no setting of it is known"
    smaller = "a smaller LoRA rank" if here.setting("lora") else "a smaller model"
    memorises = Cause(
        "the model memorises the training data",
        f"training and validation loss part; {known}",
        f"more dropout or weight decay, {smaller}, more or augmented data",
    )
    return stop, memorises
