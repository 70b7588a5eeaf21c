"""The steps wait for data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Finding, Incomplete, Severity, Span, Verdict
from rankscope.agent.rules._causes import slow
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._fold import Fold, Place
from rankscope.agent.rules._phases import phase, step_seconds
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.rules._spread import Spread
from rankscope.agent.rules._utilization import utilization
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class DataLoaderBottleneck:
    """Waiting for data takes more than the share `threshold` of the steps, in the median of the last `steps` steps.

    Medians, so that a pause at the end of an epoch is none. A rank whose GPU was busy for `busy` of the last minute
    waits for the GPU and not for data: whoever copies a batch to the GPU from ordinary memory waits for all before it.

    Needs `data_seconds` (the phase `data`: `batches()` measures it, or the run logs it) and the seconds of the steps.

    Defaults: `threshold` 0.4 of the step over 50 steps; TraceML warns of any overhead from 10 % on, and names the input
    where it is most of the gap. SageMaker's Dataloader rule looked at processes, not at time.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("data_seconds", "step_seconds")
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    threshold: float = 0.4  # of the step
    steps: int = 50
    busy: float = 0.9  # of the time

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            data = phase(rank, "data")
            if data is None:
                return Incomplete("no phase `data` was measured")
            memory = rank.memory(self, lambda: _Waits(self.steps))
            place = Place(node, run, rank, now)
            for piece in memory.reader.read(data):
                memory.read(self, piece, place)
            if memory.lacks is not None:
                return Incomplete(memory.lacks)
            return memory.episodes.tell(now)

        return each_rank(run.ranks.values(), judge)


LEAST = 20  # steps


class _Waits(Fold[DataLoaderBottleneck]):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.lacks = f"fewer than {LEAST} steps waited for data"
        self.shares = Spread(steps)
        self.begin: int | None = None
        self.before: int | None = None  # step of the point before

    def back(self, step: int, place: Place) -> None:
        self.shares.clear()
        self.begin = self.before = None

    def take(self, rule: DataLoaderBottleneck, step: int, time: float, value: float, place: Place) -> None:
        before, self.before = self.before, step
        if "data" in place.rank.phases:  # timed, not logged: what all steps since the point before waited
            if before is None:
                return
            value /= max(1, step - before)
        whole = _seconds_at(place.rank, step)
        if whole is None or not whole > 0 or not value >= 0:
            return
        self.begin = step if self.begin is None else self.begin
        self.shares.add(min(1.0, value / whole))
        if len(self.shares) < LEAST or step - self.begin < rule.steps - 1:
            return
        self.lacks = None
        share = self.shares.median
        if self.episodes.current is not None:
            if share < 0.8 * rule.threshold:
                self.episodes.end(place.now)
        elif share > rule.threshold and not _gpu_busy(place) >= rule.busy:
            here = place.around(step, time)
            summary = (
                f"waiting for data takes {share:.0%} of a step in the median of {len(self.shares)} steps "
                f"({figure(value)} of {figure(whole)} s at step {step})"
            )
            self.episodes.begin(place.finding(summary, step, time, share, (slow.data_loading(here), slow.host(here))))


def _gpu_busy(place: Place) -> float:
    """Return for which share of the last minute the rank's GPU was busy, NaN where it is not known."""
    series = utilization(place.node, Devices(place.node).of(place.rank))
    if series is None:
        return math.nan
    recent = series.value[series.time >= place.now - 60.0]
    return float(np.mean(recent)) if len(recent) >= 5 else math.nan


def _seconds_at(rank: Rank, step: int) -> float | None:
    """Return how long a step took, or the nearest one before it that is known."""
    series = step_seconds(rank)
    at = int(np.searchsorted(series.step, step, side="right")) - 1
    return float(series.value[at]) if at >= 0 else None
