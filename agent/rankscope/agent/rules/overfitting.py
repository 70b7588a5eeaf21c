"""The validation loss rises while the training loss does not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, Severity, Span, Verdict
from rankscope.agent.rules._causes.around import Around, figure
from rankscope.agent.rules._fold import Fold, Place, fold_ranks
from rankscope.agent.rules._spread import IQR_OF_NORMAL
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class Overfitting:
    """The validation loss rises from its best value while the training loss goes on falling or stands still.

    Evaluations are few and noisy, so one bad evaluation means nothing. The rule looks at all evaluations since the best
    one: there must be `patience` of them, a trend test (Mann-Kendall) must call them rising beyond doubt, and the
    median of the newest three must lie the share `rise` and twice the noise above the level around the best while the
    training loss fell by `falls` since; where that stands still (or is not logged) the share must be `alone`. A
    training loss that rises as well is a divergence, and one that never fell has nothing to overfit. A gap between
    training and validation loss alone is none: dropout and augmentation make one either way.

    Needs `val_loss`; uses `loss`. Tells the best step, to which one would go back.

    Defaults: SageMaker's Overfit fires at once on a gap of 10 %, its Overtraining after 10 evaluations without a new
    optimum; FIELD proposes a rising validation loss over at least 3 evaluations. `patience` 5 and a trend of 2.5
    standard deviations leave little to chance; `rise` 5 %, `falls` 10 %, `alone` 50 %.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("val_loss",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    patience: int = 5  # evaluations since the best
    rise: float = 0.05  # of the best validation loss
    falls: float = 0.1  # of the training loss at the best evaluation
    alone: float = 0.5  # of the best validation loss, where the training loss stands still
    trend: float = 2.5  # deviations of Mann-Kendall's test

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        return fold_ranks(self, node, run, now, "val_loss", _Evaluations)


SURE = 3.0  # standard errors by which the training loss must have fallen
MEDIAN = 1.253  # standard error of a median over that of a mean, for normal noise
MOST = 256  # evaluations that are kept


class _Evaluations(Fold[Overfitting]):
    def __init__(self) -> None:
        super().__init__()
        self.lacks = "fewer than 3 evaluations"
        self.steps: list[int] = []
        self.values: list[float] = []
        self.train: list[tuple[float, float]] = []  # training loss before each evaluation, and its standard error
        self.best = 0  # index
        self.start = math.nan  # training loss at the start

    def back(self, step: int, place: Place) -> None:
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
            self.train.pop()
        self.best = int(np.argmin(self.values)) if self.values else 0
        self.episodes.end(place.now)

    def take(self, rule: Overfitting, step: int, time: float, value: float, place: Place) -> None:
        if not math.isfinite(value):
            return
        if math.isnan(self.start):
            self.start = _start(place)
        self.steps.append(step)
        self.values.append(value)
        self.train.append(_training(place, step, self.steps[-2] if len(self.steps) > 1 else step))
        if len(self.values) > MOST:
            drop = 0 if self.best > 0 else 1  # never the best one
            del self.steps[drop], self.values[drop], self.train[drop]
            self.best -= 1 - drop
        if value < self.values[self.best]:
            self.best = len(self.values) - 1
            self.episodes.end(place.now)
        if len(self.values) >= 3:
            self.lacks = None
        if self.episodes.current is None:
            self._judge(rule, step, time, place)

    def _judge(self, rule: Overfitting, step: int, time: float, place: Place) -> None:
        late = self.values[self.best + 1 :]  # without the best one, which noise has made look better
        if len(late) < rule.patience:
            return
        lowest, newest = _median(self.values[max(0, self.best - 2) : self.best + 3]), _median(late[-3:])
        if newest - lowest < rule.rise * abs(lowest):
            return
        noise = _noise(np.array(self.values[max(0, self.best - 5) :]))
        if newest - lowest < 2 * noise or rising(np.array(late)) < rule.trend:
            return
        then, now, error = self._trained()
        if now > self.start - 0.02 * abs(self.start):
            return  # what has learned nothing has learned nothing by heart
        if now > then + 0.1 * (newest - lowest) + 0.05 * abs(then):
            return
        fell = then - now >= max(rule.falls * abs(then), SURE * error)
        if not fell and newest - lowest < rule.alone * abs(lowest):
            return
        best = self.steps[self.best]
        self.episodes.begin(
            place.finding(
                f"validation loss rose from {figure(self.values[self.best])} at step {best}, its best, to "
                f"{figure(newest)}",
                step,
                time,
                newest,
                _causes(place.around(step, time), best, self.values[self.best], then, now),
            )
        )

    def _trained(self) -> tuple[float, float, float]:
        """Return the training loss around the best evaluation and now, and the standard error of their difference."""
        then = np.array(self.train[max(0, self.best - 1) : self.best + 2])
        now = np.array(self.train[-3:])
        then, now = then[np.isfinite(then[:, 0])], now[np.isfinite(now[:, 0])]
        if not len(then) or not len(now):
            return math.nan, math.nan, math.nan
        (before, error), (after, other) = np.median(then, axis=0), np.median(now, axis=0)
        return float(before), float(after), math.hypot(float(error), float(other))


def rising(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Return Mann-Kendall's statistic: how surely the values rise, in standard deviations (positive: rising)."""
    n = len(values)
    score = float(np.sign(values[None, :] - values[:, None])[np.triu_indices(n, 1)].sum())
    deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return (score - math.copysign(1, score)) / deviation if score else 0.0


def _noise(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Return the deviation of single evaluations, as neighbours differ."""
    steps = np.diff(values)
    return float(np.median(np.abs(steps - np.median(steps)))) / 0.6745 / math.sqrt(2) if len(steps) >= 3 else 0.0


def _start(place: Place) -> float:
    """Return the training loss at the start, NaN where it is not known."""
    series = place.rank.role("loss")
    if series is None or len(series) < 5 or series.count > len(series):
        return math.nan
    first = series.value[:5]
    first = first[np.isfinite(first)]
    return float(np.median(first)) if len(first) else math.nan


def _training(place: Place, step: int, since: int) -> tuple[float, float]:
    """Return the training loss between two evaluations, or in the last 32 points if there are fewer, and its error.

    A median and the standard error of it; NaN where it is not known.
    """
    series = place.rank.role("loss")
    if series is None:
        return math.nan, math.nan
    begin, end = (int(at) for at in np.searchsorted(series.step, (since, step), side="right"))
    begin = max(0, min(begin, end - 32), end - 256)
    values = sorted(value for value in series.value[begin:end].tolist() if math.isfinite(value))
    if not values:
        return math.nan, math.nan
    last = len(values) - 1
    spread = (values[round(0.75 * last)] - values[round(0.25 * last)]) / IQR_OF_NORMAL
    return values[len(values) // 2], MEDIAN * spread / math.sqrt(len(values))


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _causes(here: Around, best: int, lowest: float, then: float, now: float) -> tuple[Cause, ...]:
    evidence = f"the best validation loss, {figure(lowest)}, was at step {best}, {here.step - best} steps ago"
    if math.isfinite(then) and math.isfinite(now):
        evidence += f"; the training loss went from {figure(then)} to {figure(now)} since"
    fix = f"stop early, and go back to the checkpoint nearest to step {best}"
    capacity = [part for part in (here.setting("lora_r", "rank"), here.setting("layers", "hidden", "d_model")) if part]
    regular = [part for part in (here.setting("dropout"), here.setting("weight_decay")) if part]
    known = ", ".join(f"{key} is {value}" for key, value in (*regular, *capacity)) or "no setting of it is known"
    smaller = "a smaller LoRA rank" if here.setting("lora") else "a smaller model"
    return (
        Cause("the run goes on beyond its best point", evidence, fix),
        Cause(
            "the model memorises the training data",
            f"training and validation loss part; {known}",
            f"more dropout or weight decay, {smaller}, more or augmented data",
        ),
    )
