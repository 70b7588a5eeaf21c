"""One rank is slower than the others, and they wait for it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from rankscope.agent.model import Cause, Finding, Incomplete, Severity, Span, Verdict
from rankscope.agent.rules._causes import slow
from rankscope.agent.rules._causes.around import Around, figure
from rankscope.agent.rules._episodes import Episodes
from rankscope.agent.rules._phases import phase, step_seconds
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node, Run

WORTH = 0.05  # of the step: a rank that costs less is no straggler, however the parts that it does alone compare
LONGER = 4  # so many times as many steps tell whether a rank is slow now and then

Table = npt.NDArray[np.float64]


@dataclass(eq=False)
class Straggler:
    """One rank takes longer for its own part of the steps than the others do, steadily or again and again.

    In data-parallel training the steps of all ranks take equally long, because the fast ones wait inside of the
    backward pass. So what counts is the part that a rank does alone: its own step seconds where the run logs them, else
    data and forward. A rank straggles when in the median of the last `steps` steps it takes `ratio` times the median of
    the others; or when it is `burst` times as slow in the share `often` of four times as many steps, and no other rank
    in more than a third of that. What it waits longer for its data than the others counts in full, even where they take
    as much longer for forward: if the model has buffers, DDP lets them wait there for rank 0. Less than a twentieth of
    the whole step is nobody's trouble.

    Needs `rank_step_seconds`, or the phases `data` and `forward`, of at least 3 ranks (of 2, the slower one cannot be
    told from a faster other, so `ratio` counts twice). Where ranks wait for each other inside of forward for anything
    but data, all of them look alike, and nothing is found.

    Defaults: NVRx flags a rank below 0.75 of the speed of the best, that is `ratio` 1.33; TraceML warns at a tenth of
    the step. `ratio` 1.25 over 30 steps, `burst` 1.5 in a fifth of 120: of sequences whose length varies by half, one
    rank in eight has by chance as many long ones in 30 steps. `for` 5 s: where steps take milliseconds, a core that
    another process held for a moment is not worth a word.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("rank_step_seconds", "data_seconds", "forward_seconds")
    severity: Severity = "warning"
    for_: Span = field(default_factory=lambda: Span(seconds=5.0))
    ratio: float = 1.25
    burst: float = 1.5
    often: float = 0.2
    steps: int = 30

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None
        if len(run.ranks) < 2:
            return Incomplete("the run has one rank here")
        own = {number: found for number, rank in run.ranks.items() if (found := _own(rank))}
        if len(own) < 2:
            return Incomplete("the ranks' own part of the steps is not measured")
        first = run.ranks[min(run.ranks)]
        memory = first.memory(self, lambda: _Steps(self.steps))
        memory.read(self, own, node, run, now)
        if len(memory.rows) < self.steps:
            return Incomplete(f"fewer than {self.steps} steps of all ranks")
        return memory.tell(now)


def _own(rank: Rank) -> tuple[Series, ...]:
    """Return the series whose sum is what a rank does alone; empty where it is not measured."""
    logged = rank.role("rank_step_seconds")
    if logged is not None:
        return (logged,)
    data, forward = phase(rank, "data"), phase(rank, "forward")
    if forward is None:
        return ()
    return (data, forward) if data is not None else (forward,)


class _Steps:
    """Seconds of all ranks at the newest steps that all of them have finished."""

    def __init__(self, steps: int) -> None:
        # Of each rank: the part that it does alone, and its data within.
        self.rows: deque[list[tuple[float, float]]] = deque(maxlen=LONGER * steps)
        self.ranks: list[int] = []
        self.step = -1
        self.episodes: dict[int, Episodes] = {}

    def read(self, rule: Straggler, own: dict[int, tuple[Series, ...]], node: Node, run: Run, now: float) -> None:
        ranks = sorted(own)
        if ranks != self.ranks:
            self.rows.clear()
            self.ranks = ranks
        newest = min(int(parts[-1].step[-1]) for parts in own.values())
        if newest < self.step:  # the run went back
            self.step = newest - 1
        if newest == self.step:
            return
        table = [_by_step(own[number], self.step) for number in ranks]
        for step in sorted(set(table[0]).intersection(*table[1:])):
            self.rows.append([seconds[step] for seconds in table])
            self.step = step
            if len(self.rows) >= rule.steps:
                self._judge(rule, step, node, run, now)

    def _judge(self, rule: Straggler, step: int, node: Node, run: Run, now: float) -> None:
        both: Table = np.array(self.rows)
        own: Table = both[:, :, 0]
        data: Table = both[:, :, 1]
        columns = own.shape[1]
        ratio = rule.ratio if columns > 2 else 1 + 2 * (rule.ratio - 1)
        others = _typical(own)
        alone = np.maximum(own, others + data - _typical(data))
        relative = alone / np.maximum(others, 1e-9)
        recent = relative[-rule.steps :]
        medians = np.median(recent, axis=0)
        bursts = np.mean(relative > rule.burst, axis=0) if len(own) == self.rows.maxlen else np.zeros(columns)
        worst = int(np.argmax(medians)) if medians.max() > ratio else int(np.argmax(bursts))
        rest = np.delete(bursts, worst).max()
        slow_now = (
            medians[worst] > ratio
            and medians[worst] - np.median(np.delete(medians, worst)) > ratio - 1
            and np.quantile(recent[:, worst], 0.25) > 1 + (ratio - 1) / 2  # steps of very uneven length prove little
        )
        often = columns > 2 and bursts[worst] > rule.often and rest < bursts[worst] / 3
        if slow_now or often:
            lost, least = (alone - others)[:, worst], WORTH * _step(run.ranks[self.ranks[worst]])
            slow_now = slow_now and bool(np.median(lost[-rule.steps :]) >= least)
            often = often and bool(lost.mean() >= least)
        for place, number in enumerate(self.ranks):
            episodes = self.episodes.setdefault(number, Episodes())
            if place == worst and (slow_now or often):
                if episodes.current is None:
                    there = slice(-rule.steps, None) if slow_now else np.flatnonzero(relative[:, place] > rule.burst)
                    share = 1.0 if slow_now else float(bursts[place])
                    how, seconds = _words(own[there], data[there], alone[there], place, share)
                    evidence = f"rank {number} takes {seconds} in the median of {len(own[there])} steps"
                    episodes.begin(_finding(node, run, number, step, float(medians[place]), how, evidence))
            elif (
                episodes.current is not None and medians[place] < 1 + (ratio - 1) / 2 and bursts[place] < rule.often / 2
            ):
                episodes.end(now)

    def tell(self, now: float) -> Verdict:
        return tuple(finding for episodes in self.episodes.values() for finding in episodes.tell(now))


def _typical(seconds: Table) -> Table:
    """Return of each step (rows) what ranks (columns) usually take, as one column; of two ranks, the faster one's."""
    return np.median(seconds, axis=1, keepdims=True) if seconds.shape[1] > 2 else seconds.min(axis=1, keepdims=True)


def _words(own: Table, data: Table, alone: Table, place: int, share: float) -> tuple[str, str]:
    """Say how one rank is slower than the others in these steps, the share `share` of all, and in how many seconds."""
    hidden = alone[:, place].sum() > 1.05 * own[:, place].sum()
    part = data if hidden else own
    took, usual = float(np.median(part[:, place])), float(np.median(_typical(part)))
    seconds = f"{figure(took)} s against {figure(usual)} s"
    if hidden:
        return f"waits for its data longer than the others, who then wait for it in forward: {seconds}", seconds
    if share < 1:
        return f"takes much longer in {share:.0%} of the steps: {seconds} there", seconds
    return f"takes {took / max(usual, 1e-9):.1f} times as long as the others: {seconds}", seconds


def _step(rank: Rank) -> float:
    """Return the seconds of a whole step in the median of the newest; 0 where they are not known."""
    seconds = step_seconds(rank).value[-50:]
    seconds = seconds[np.isfinite(seconds)]
    return float(np.median(seconds)) if len(seconds) else 0.0


def _by_step(parts: tuple[Series, ...], after: int) -> dict[int, tuple[float, float]]:
    """Return the seconds of each step after one: summed over the parts, and those for data where they are known."""
    tables: list[dict[int, float]] = []
    for series in parts:
        start = int(np.searchsorted(series.step, after, side="right"))
        tables.append(dict(zip(series.step[start:].tolist(), series.value[start:].tolist(), strict=True)))
    common = set(tables[0]).intersection(*tables[1:])
    data = tables[0] if len(tables) > 1 else dict.fromkeys(common, 0.0)
    return {step: (sum(table[step] for table in tables), data[step]) for step in common}


def _finding(node: Node, run: Run, number: int, step: int, ratio: float, how: str, evidence: str) -> Finding:
    rank = run.ranks[number]
    ends = _own(rank)[-1]
    place = int(np.searchsorted(ends.step, step))
    time = float(ends.time[place]) if place < len(ends) else float(rank.last_step_time)
    here = Around(node, run, rank, step, time)
    causes: list[Cause | None] = [slow.throttling(here), slow.crowded(here)]
    loading = slow.data_loading(here)
    causes.append(loading)
    causes.append(
        Cause(
            f"the machine or the GPU of rank {number} is slower",
            evidence + (f", on {rank.info.hostname}" if rank.info.hostname else ""),
            "compare clocks, PCIe and NVLink width, and what else runs there; swap the node to be sure",
        )
    )
    if loading is None:
        causes.append(
            Cause(
                f"rank {number} gets more work",
                evidence,
                "balance sequence lengths and shards over the ranks; check that no rank alone logs, saves or evaluates",
            )
        )
    return Finding(
        f"rank {number} {how}",
        step,
        time,
        ratio,
        number,
        causes=tuple(cause for cause in causes if cause is not None),
    )
