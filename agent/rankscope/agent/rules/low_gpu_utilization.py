"""GPUs of a run do little while it trains."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._causes import slow
from rankscope.agent.rules._causes.around import Around
from rankscope.agent.rules._episodes import Episodes
from rankscope.agent.rules._pauses import outside, pauses
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.rules._reading import Piece, Reader
from rankscope.agent.rules._utilization import utilization
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class LowGpuUtilization:
    """A GPU does little while its rank trains: its mean utilisation stays under `threshold`.

    Utilisation is the share of time in which any kernel ran, so it says that a GPU is idle, never that it is used well.
    Sampled values are judged over the last `window` seconds and only as far as the rank made steps then (start-up,
    long evaluations, checkpoints and a stalled run are no matter of this rule), for half of them at least; a run that
    logs its own utilisation at every step is judged over the last `steps` steps, of which there must be 20 points.

    Needs `gpu_utilization_ratio` of the node's GPU sampler (of a MIG instance `mig_engine_active_ratio`), or the role
    `gpu_utilization`. Uses the phases of the step.

    Defaults: SageMaker's LowGPUUtilization calls a GPU under-used below 70 % at the 95th percentile of 500 samples (4
    minutes); TraceML calls under 30 % low and under 70 % moderate. `threshold` 0.5 of the mean over 2 minutes lies
    between.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("gpu_utilization_ratio",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    threshold: float = 0.5  # of 1
    window: Seconds = 120.0  # of sampled values
    steps: int = 100  # of values that the run logs

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None
        devices = Devices(node)

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            if rank.state(now) not in ("running", "silent"):
                return ()
            logged = rank.role("gpu_utilization")
            if logged is not None:
                return self._logged(node, run, rank, logged, now)
            device = devices.of(rank)
            series = utilization(node, device)
            if device is None or series is None:
                return Incomplete("the utilisation of this rank's GPU is not known")
            return self._sampled(node, run, rank, device.gpu, series, now)

        return each_rank(run.ranks.values(), judge)

    def _sampled(
        self, node: Node, run: Run, rank: Rank, gpu: str, series: Series, now: float
    ) -> tuple[Finding, ...] | Incomplete:
        since = now - self.window
        steps = rank.step_seconds
        if rank.step is None or not len(steps) or steps.time[0] > since:
            return Incomplete("the run has not made steps for long enough")
        start = int(np.searchsorted(series.time, since))
        recent, time = series.value[start:], series.time[start:]
        if len(recent) < 5 or series.time[0] > since + self.window / 10:
            return Incomplete("the GPU was not sampled for long enough")
        stepping = outside(time, pauses(rank, now))
        if now < rank.expect_until or stepping.mean() < 0.5:
            return ()
        mean = float(np.mean(recent[stepping]))
        if not mean < self.threshold:
            return ()
        return (self.finding(node, run, rank, mean, gpu, f"over {self.window:.0f} s", rank.step, now),)

    def _logged(self, node: Node, run: Run, rank: Rank, series: Series, now: float) -> tuple[Finding, ...] | Incomplete:
        memory = rank.memory(self, _Memory)
        for piece in memory.reader.read(series):
            memory.take(self, piece, node, run, rank, now)
        if not memory.judged:
            return Incomplete("the GPU's utilisation was logged for too few steps")
        return memory.episodes.tell(now)

    def finding(
        self, node: Node, run: Run, rank: Rank, mean: float, gpu: str | None, span: str, step: int | None, time: float
    ) -> Finding:
        which = f"GPU {gpu} of rank {rank.info.key.rank}" if gpu is not None else "the GPU"
        return Finding(
            summary=f"{which} is busy {mean:.0%} of the time {span}",
            step=step,
            time=time,
            value=mean,
            rank=rank.info.key.rank,
            gpu=gpu,
            causes=slow.causes(Around(node, run, rank, step or 0, time)),
        )


LEAST = 20  # logged values
EVERY = 5  # logged values between two judgements


class _Memory:
    """The utilisation that a rank logged over the last steps."""

    __slots__ = ("_percent", "_points", "_sum", "_unjudged", "episodes", "judged", "reader")

    def __init__(self) -> None:
        self.reader = Reader()
        self.episodes = Episodes()
        self.judged = False
        self._points: deque[tuple[int, float]] = deque()
        self._sum = 0.0
        self._unjudged = 0
        self._percent = False  # what a run logs is percent once it is above 1

    def take(self, rule: LowGpuUtilization, piece: Piece, node: Node, run: Run, rank: Rank, now: float) -> None:
        if piece.back:
            self._points.clear()
            self._sum = 0.0
        for step, time, value in zip(piece.step.tolist(), piece.time.tolist(), piece.value.tolist(), strict=True):
            if value > 1.0:
                self._percent = True
            value = value / 100 if self._percent else value
            if not math.isfinite(value):
                continue
            points = self._points
            points.append((step, value))
            self._sum += value
            while len(points) > LEAST and points[1][0] <= step - rule.steps:
                self._sum -= points.popleft()[1]
            self._unjudged += 1
            if self._unjudged < EVERY or len(points) < LEAST or step - points[0][0] < rule.steps - 1:
                continue
            self._unjudged = 0
            self.judged = True
            mean = self._sum / len(points)
            if self.episodes.current is None:
                if mean < rule.threshold:
                    span = f"over {step - points[0][0] + 1} steps"
                    self.episodes.begin(rule.finding(node, run, rank, mean, None, span, step, time))
            elif mean > 1.1 * rule.threshold:
                self.episodes.end(now)
