"""The loss is not a number, or infinite, or hidden behind a zero."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Finding, Incomplete, Severity, Span, Verdict
from rankscope.agent.rules._causes import not_finite
from rankscope.agent.rules._episodes import Episodes
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.rules._reading import Piece, Reader
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run

COMPARE = 1.0  # seconds that a loss which is finite again waits for the other ranks'


@dataclass(eq=False)
class LossNaN:
    """The training loss is NaN or infinite, or is exactly 0 while the gradient norm is not finite.

    Judged at every point, at once: weights that have taken a NaN step do not recover, and every further step is money
    lost. Some trainers replace a NaN loss by 0.0 before they log it (Hugging Face's `logging_nan_inf_filter`); a loss
    of exactly 0.0 at a step whose gradient norm is NaN or infinite therefore counts as NaN. A gradient norm that is
    not finite under a finite loss does not: a loss scaler that finds its scale makes such steps and skips them.

    Needs `loss`; uses `grad_norm` and `lr`. Resolves when `recover` finite losses in a row have come.

    Defaults: `recover` 1, so that a recovered run is told of at once. Severity critical, as in Megatron-LM, whose rerun
    machine calls a non-finite loss fatal and a spiky one not; SageMaker's ExplodingTensor fires on any such value.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    severity: Severity = "critical"
    for_: Span = field(default_factory=Span)
    recover: int = 1  # finite losses in a row that end it

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            loss = rank.role("loss")
            if loss is None:
                return Incomplete("no loss was logged")
            memory = rank.memory(self, _Memory)
            for piece in memory.gradients.read(rank.role("grad_norm")):
                memory.take_gradients(piece)
            for piece in memory.losses.read(loss):
                memory.take(self, piece, node, run, rank, now)
            if memory.zeros:
                memory.unmask(self, node, run, rank, now)
            if memory.early is not None:
                memory.compare(node, run, rank)
            return memory.episodes.tell(now)

        return each_rank(run.ranks.values(), judge)


@dataclass(slots=True)
class _Memory:
    losses: Reader = field(default_factory=Reader)
    gradients: Reader = field(default_factory=Reader)
    episodes: Episodes = field(default_factory=Episodes)
    finite: int = 0  # finite losses in a row
    zeros: dict[int, float] = field(default_factory=dict[int, float])  # time by step of losses of exactly 0
    blown: dict[int, float] = field(default_factory=dict[int, float])  # gradient norm by step, where not finite
    early: Finding | None = None  # what was found before every other rank's loss of that step had come

    def take_gradients(self, piece: Piece) -> None:
        for at in np.flatnonzero(~np.isfinite(piece.value)):
            self.blown[int(piece.step[at])] = float(piece.value[at])
        while len(self.blown) > 4096:
            del self.blown[next(iter(self.blown))]

    def take(self, rule: LossNaN, piece: Piece, node: Node, run: Run, rank: Rank, now: float) -> None:
        good = np.isfinite(piece.value)
        zero = piece.value == 0.0
        if self.episodes.current is None and good.all() and not zero.any():
            self.finite += len(good)
            return
        for step, time, value in zip(piece.step.tolist(), piece.time.tolist(), piece.value.tolist(), strict=True):
            if (value == 0.0 and step in self.blown) or not math.isfinite(value):
                self.begin(node, run, rank, step, time, value)
            else:
                if value == 0.0:
                    self.zeros[step] = time
                self.finite += 1
                if self.finite >= rule.recover:
                    self.episodes.end(now)

    def unmask(self, rule: LossNaN, node: Node, run: Run, rank: Rank, now: float) -> None:
        """Find the losses of 0 whose gradient norm came later and is not finite."""
        for step in [step for step in self.zeros if step in self.blown]:
            self.begin(node, run, rank, step, self.zeros.pop(step), 0.0)
            if self.finite >= rule.recover and rank.step is not None and step < rank.step:
                self.episodes.end(now)
        while len(self.zeros) > 64:
            del self.zeros[next(iter(self.zeros))]

    def begin(self, node: Node, run: Run, rank: Rank, step: int, time: float, value: float) -> None:
        self.finite = 0
        if self.episodes.current is not None:
            return
        shown = _text(value)
        hidden = value == 0.0
        summary = f"loss is {shown} at step {step}"
        if hidden:
            summary = f"loss is hidden at step {step}: logged as 0 while the gradient norm is {_text(self.blown[step])}"
        finding = Finding(
            summary=summary,
            step=step,
            time=time,
            value=value,
            rank=rank.info.key.rank,
            causes=not_finite.causes(node, run, rank, step, time, value),
            tentative=_behind(run, step),
        )
        self.early = finding if finding.tentative else None
        # Told until the others' losses have come, though a finite loss follows at once: they say whose fault it is.
        self.episodes.hold = COMPARE if self.early is not None else 0.0
        self.episodes.begin(finding)

    def compare(self, node: Node, run: Run, rank: Rank) -> None:
        """Look for the causes again: other ranks' losses of the same step come a moment later."""
        early = self.early
        assert early is not None
        assert early.step is not None
        assert early.value is not None
        behind = _behind(run, early.step)
        self.episodes.revise(not_finite.causes(node, run, rank, early.step, early.time, early.value), behind)
        if not behind:
            self.early = None


def _behind(run: Run, step: int) -> bool:
    """Tell whether a rank that logs a loss has not come to `step` yet."""
    losses = [loss for rank in run.ranks.values() if (loss := rank.role("loss")) is not None and len(loss.step)]
    return any(loss.step[-1] < step for loss in losses)


def _text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "0" if value == 0 else "+infinity" if value > 0 else "-infinity"
