"""The loss jumps far above its recent level."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._causes import jump
from rankscope.agent.rules._causes.around import figure
from rankscope.agent.rules._episodes import Episodes
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.rules._reading import Piece, Reader
from rankscope.agent.rules._spread import Spread
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class LossSpike:
    """The training loss jumps far above its recent level: one point very far, or several far enough.

    The level is the median of the last `window` points, its noise their interquartile range, so the rule knows no
    absolute loss and works for tiny, huge and negative ones alike. One point fires when it lies `threshold` deviations
    above the level *and* `tail` times as far as the farthest of the window did (batches of few samples have losses with
    long tails); `several` of the last 5 points fire at `sustained` deviations. Either way the jump must undo at least
    the share `undo` of what the run has learned since its start, which keeps a run that has converged to 1e-4 from
    crying over 1e-3; and positive losses must also stand out in their logarithm, by `logarithm` deviations. While a
    spike lasts the level stands still; when the loss stays up for a whole window, that is its new level (a curriculum,
    a new data set). A lone outlier makes the rule expect others of its size.

    Needs `loss`, 20 points of it; uses `grad_norm` and `lr`. After a restart that goes back, the points of the steps
    that are trained again no longer count.

    Defaults: llm-foundry's KillLossSpike asks for 5 losses in a row above twice the mean of 100; Megatron-LM for one
    above 10 times the largest of the first 100. `window` 128 points is between a fast and a steady level; 10 and 5
    deviations are beyond what a normal or a moderately heavy-tailed noise gives in a million points; `undo` 0.1.
    Severity warning: most spikes recover by themselves.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    window: int = 128  # points that make the level
    threshold: float = 10.0  # deviations for one point
    tail: float = 3.0  # times the farthest point of the window
    sustained: float = 5.0  # deviations for several points
    logarithm: float = 4.0  # deviations of the losses' logarithm
    several: int = 4  # of the last 5 points
    undo: float = 0.1  # share of what was learned
    hold: Seconds = 30.0  # it is told for so long after the loss is back

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            loss = rank.role("loss")
            if loss is None:
                return Incomplete("no loss was logged")
            memory = rank.memory(self, lambda: _Memory(self.window, self.hold))
            for piece in memory.reader.read(loss):
                memory.take(self, piece, node, run, rank, now)
            if memory.seen < LEAST:
                return Incomplete(f"fewer than {LEAST} losses were logged")
            return memory.episodes.tell(now)

        return each_rank(run.ranks.values(), judge)


WIDE = 1.0  # deviation of the losses' logarithm from which on they span powers of ten
LEAST = 20  # points before the level means anything
FIRST = 5  # points whose median is the loss at the start
BACK = 5  # points in a row near the level that end a spike
LONE = 2  # a spike of so few points is an outlier


class _Memory:
    """What the rule keeps of one rank: the level, the noise, and the spike that it is in."""

    __slots__ = (
        "_calm",
        "_far",
        "_lone",
        "_steps",
        "_up",
        "_waiting",
        "best",
        "episodes",
        "first",
        "reader",
        "seen",
        "spread",
    )

    def __init__(self, window: int, hold: float) -> None:
        self.reader = Reader()
        self.episodes = Episodes(hold)
        self.spread = Spread(window)
        self.seen = 0
        self.first: list[float] = []
        self.best = math.inf  # lowest level so far
        self._steps: deque[int] = deque(maxlen=window)
        self._far: deque[bool] = deque(maxlen=5)  # which of the last points lay `sustained` deviations up
        self._waiting: list[tuple[int, float]] = []  # steps and values that may become a spike
        self._up: list[float] = []  # values of the spike that it is in
        self._calm = 0  # points in a row near the level
        self._lone = 0.0  # how far up the outliers went that changed nothing

    def shift(self, seconds: float) -> None:
        """The clock was set."""
        self.episodes.shift(seconds)

    def take(self, rule: LossSpike, piece: Piece, node: Node, run: Run, rank: Rank, now: float) -> None:
        if piece.back:
            self._return_to(int(piece.step[0]), now)
        for step, time, value in zip(piece.step.tolist(), piece.time.tolist(), piece.value.tolist(), strict=True):
            if not math.isfinite(value):
                continue
            self.seen += 1
            if len(self.spread) < LEAST:
                self._accept(step, value)
            elif self.episodes.current is not None:
                self._during(rule, step, value, now)
            elif (reason := self._judge(rule, step, value)) is not None:
                self._begin(step, time, value, reason, node, run, rank)

    def _return_to(self, step: int, now: float) -> None:
        newer = sum(1 for at in self._steps if at >= step)
        self.spread.drop_newest(newer)
        for _ in range(newer):
            self._steps.pop()
        self._far.clear()
        self._waiting.clear()
        self.episodes.end(now)
        self._up.clear()

    def _accept(self, step: int, value: float) -> None:
        self.spread.add(value)
        self._steps.append(step)
        if len(self.first) < FIRST:
            self.first.append(value)
        elif len(self.spread) >= LEAST and (level := self.spread.median) < self.best:
            self.best = level

    def _judge(self, rule: LossSpike, step: int, value: float) -> str | None:
        """Take a point outside of a spike; return how it stands out, if it begins one."""
        spread = self.spread
        level, sigma = spread.median, spread.sigma
        above = value - level
        if above <= rule.sustained * sigma:
            self._far.append(False)
            if self._waiting and not any(self._far):
                self._accept_waiting()
            self._accept(step, value)
            return None
        usual = spread.high - level
        start = sorted(self.first)[len(self.first) // 2]
        far = spread.farther(value)
        if far < 0.75 * rule.logarithm:
            self._far.append(False)
            self._accept(step, value)
            return None
        material = above >= rule.undo * max(start - min(self.best, level), usual)
        many = f"{above / sigma:.0f} deviations" if sigma > 0 else "far"
        strong = material and above > max(rule.threshold * sigma, rule.tail * usual, 1.5 * self._lone)
        # Where losses span powers of ten a lone one far up may be a single hard sample: two of three are not.
        alone = far > rule.logarithm and (far > 1.5 * rule.logarithm or spread.log_sigma < WIDE)
        if strong and (alone or any(list(self._far)[-2:])):
            return many
        self._far.append(material and above > usual)
        if sum(self._far) >= rule.several:
            return f"{rule.several} of 5 points {many}"
        if self._far[-1]:
            self._waiting.append((step, value))
        else:
            self._accept(step, value)
        return None

    def _accept_waiting(self) -> None:
        """The points that looked far up were no spike: they belong to the noise."""
        for step, value in self._waiting:
            self._accept(step, value)
        self._waiting.clear()

    def _begin(self, step: int, time: float, value: float, reason: str, node: Node, run: Run, rank: Rank) -> None:
        level = self.spread.median
        self._up, self._calm = [*(up for _, up in self._waiting), value], 0
        self._waiting.clear()
        self._far.clear()
        self.episodes.begin(
            Finding(
                summary=f"loss jumped from {figure(level)} to {figure(value)} at step {step}, {reason} above its level",
                step=step,
                time=time,
                value=value,
                rank=rank.info.key.rank,
                causes=jump.causes(node, run, rank, step, time),
            )
        )

    def _during(self, rule: LossSpike, step: int, value: float, now: float) -> None:
        level, sigma = self.spread.median, self.spread.sigma
        if value - level <= max(rule.sustained / 2 * sigma, self.spread.high - level):
            self._calm += 1
            self._accept(step, value)
            if self._calm >= BACK:
                if len(self._up) <= LONE:
                    self._lone = max(self._lone, max(self._up) - level)
                self.episodes.end(now)
            return
        self._calm = 0
        self._up.append(value)
        if len(self._up) >= rule.window:
            self.spread.clear()
            self._steps.clear()
            for up in self._up:
                self._accept(step, up)
            self.episodes.end(now)
