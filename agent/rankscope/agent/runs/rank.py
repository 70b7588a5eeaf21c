"""What is known of one rank of a run: its windows, its steps, what it said last."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np

from rankscope.agent.model import (
    Batch,
    Block,
    End,
    Expect,
    FloatArray,
    Goodbye,
    Heartbeat,
    Histogram,
    RankInfo,
)
from rankscope.agent.runs.clock import Dated, RankClock
from rankscope.agent.runs.roles import Roles
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.shares import SHARES, Shares

Memory = TypeVar("Memory")

RankState: TypeAlias = Literal["running", "silent", "finished", "failed"]

STEP_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


@dataclass(slots=True)
class Limits:
    """Bounds that keep one hostile or mistaken rank from eating the agent."""

    series_per_rank: int = 2000
    silent_after: float = 30.0  # seconds without a word before a rank counts as silent


@dataclass(slots=True)
class Rank:
    """One rank of a run on this node. Times are Unix seconds, durations seconds."""

    info: RankInfo
    roles: Roles
    limits: Limits
    shares: Shares = field(default_factory=Shares)  # of the run's ranks
    peers: Mapping[int, Rank] = field(default_factory=dict[int, "Rank"])  # the run's ranks, this one among them
    clock: RankClock = field(default_factory=RankClock)
    series: dict[str, Series] = field(default_factory=dict[str, Series])
    phases: dict[str, Series] = field(default_factory=dict[str, Series])  # seconds of each step by phase
    phase_seconds: dict[str, float] = field(default_factory=dict[str, float])  # totals
    step_seconds: Series = field(default_factory=lambda: Series("step_seconds"))
    step_counts: list[int] = field(default_factory=lambda: [0] * (len(STEP_BOUNDS) + 1))
    step_sum: float = 0.0
    step: int | None = None  # newest finished step
    steps: int = 0  # finished since the agent first saw the rank
    points: int = 0
    last_step_time: float = 0.0
    last_seen: float = 0.0
    restarts: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])  # attempt, step, time
    nonfinite: dict[str, int] = field(default_factory=lambda: {"loss": 0, "grad_norm": 0})  # by role
    refused: dict[str, int] = field(default_factory=dict[str, int])  # points dropped here, by reason
    lag: float = 0.0  # seconds from log() to here, of the newest batch
    connected: bool = False
    expect_until: float = 0.0
    heartbeat: Heartbeat | None = None
    goodbye: Goodbye | None = None
    _by_role: dict[str, Series] = field(default_factory=dict[str, Series])
    _memories: WeakKeyDictionary[object, object] = field(default_factory=WeakKeyDictionary[object, object])

    def memory(self, owner: object, make: Callable[[], Memory]) -> Memory:
        """Return what `owner` (a rule) keeps of this rank's points that it has read, made on first use.

        It goes when the owner goes, so a new configuration's rules begin anew.
        """
        found = self._memories.get(owner)
        if found is None:
            found = self._memories[owner] = make()
        return cast("Memory", found)

    def role(self, role: str) -> Series | None:
        """Return the series that plays a role, or None while the rank has logged none."""
        return self._by_role.get(role)

    def state(self, now: float) -> RankState:
        if self.goodbye is not None:
            return "finished" if self.goodbye.end is End.FINISHED and self.goodbye.exit_code == 0 else "failed"
        return "silent" if now - self.last_seen > self.limits.silent_after else "running"

    def attach(self, info: RankInfo, now: float) -> None:
        """A stream of this rank begins, perhaps of its next attempt."""
        if info.attempt != self.info.attempt or info.session != self.info.session:
            self.restarts.append((info.attempt, self.step or 0, now))
            self.goodbye = None
        same = info.session == self.info.session  # it still says by the clock of then when it began
        self.info = replace(info, started=self.info.started) if same else info
        self.connected = True
        self.last_seen = now

    def beat(self, heartbeat: Heartbeat, now: float) -> None:
        self._late(heartbeat.offset)
        self.heartbeat = heartbeat
        self.last_seen = now

    def apply(self, batch: Batch, now: float) -> None:
        """Take a batch into the windows."""
        self.last_seen = now
        late = self._late(batch.offset)
        for block in batch.blocks:
            self._apply_block(replace(block, time=block.time + late) if late else block, now)
        for event in batch.events:
            if isinstance(event, Expect):
                self.expect_until = max(self.expect_until, event.time + late + event.seconds)
            elif isinstance(event, Goodbye):
                self.goodbye = replace(event, time=event.time + late)

    def _late(self, offset: float | None) -> float:
        """Return by how many seconds to move the times of what comes, so that they go with those that came."""
        late = self.clock.late(offset)
        if jumped := self.clock.jumped(offset):
            self._shift(jumped)
        return late

    def shift(self, seconds: float) -> None:
        """The agent's clock was set forward by so many seconds."""
        self.last_seen += seconds
        self.restarts = [(attempt, step, time + seconds) for attempt, step, time in self.restarts]
        if self.clock.here:
            self._shift(seconds)

    def _shift(self, seconds: float) -> None:
        """The clock by which this rank's rows are dated was set."""
        self.last_step_time += seconds if self.step is not None else 0.0
        self.expect_until += seconds
        self.info = replace(self.info, started=self.info.started + seconds)
        self.goodbye = self.goodbye and replace(self.goodbye, time=self.goodbye.time + seconds)
        series = (*self.series.values(), *self.phases.values(), *self._by_role.values(), self.step_seconds)
        for each in {id(one): one for one in series}.values():
            each.shift(seconds)
        for memory in self._memories.values():
            if isinstance(memory, Dated):
                memory.shift(seconds)

    def _apply_block(self, block: Block, now: float) -> None:
        rows = len(block.step)
        if not rows:
            return
        self.points += rows * len(block.columns)
        self.lag = max(0.0, now - float(block.time[-1]))
        for i, column in enumerate(block.columns):
            values = block.value[:, i]
            target = self.phases if column.kind == "phase" else self.series
            series = target.get(column.name)
            if series is None:
                if len(self.series) + len(self.phases) >= self.limits.series_per_rank:
                    self.refused["series_limit"] = self.refused.get("series_limit", 0) + rows
                    continue
                role = self.roles.of(column.name) if column.kind == "scalar" else None
                series = target[column.name] = Series(column.name, role=role)
                if role is not None:
                    self._by_role.setdefault(role, series)
            series.extend(block.step, block.time, values)
            if column.name in SHARES:
                self._add_up(column.name, block, values)
            if column.kind == "phase":
                self.phase_seconds[column.name] = self.phase_seconds.get(column.name, 0.0) + float(np.nansum(values))
            elif series.role in self.nonfinite:
                self.nonfinite[series.role] += int(np.count_nonzero(~np.isfinite(values)))
        if not block.late:
            self._advance(block)

    def _add_up(self, name: str, block: Block, shares: FloatArray) -> None:
        """Give every rank of the run the wholes that this rank's shares complete."""
        role = SHARES[name]
        for step, time, share in zip(block.step.tolist(), block.time.tolist(), shares.tolist(), strict=True):
            whole = self.shares.add(self.info, name, step, share)
            if whole is None:
                continue
            for rank in self.peers.values():
                series = rank._by_role.setdefault(role, Series(name, role=role))
                if series.name != name:  # the user logs the whole
                    continue
                series.append(step, time, whole)
                if role in rank.nonfinite:
                    rank.nonfinite[role] += not math.isfinite(whole)

    def _advance(self, block: Block) -> None:
        """Count finished steps and their durations: the time between the last rows of two steps."""
        ends = np.append(np.flatnonzero(np.diff(block.step)), len(block.step) - 1)
        for end in ends:
            step, time = int(block.step[end]), float(block.time[end])
            if step == self.step:
                self.last_step_time = max(self.last_step_time, time)
                continue
            if self.step is not None and step > self.step and time > self.last_step_time:
                seconds = (time - self.last_step_time) / (step - self.step)
                self.step_counts[bisect.bisect_left(STEP_BOUNDS, seconds)] += 1
                self.step_sum += seconds
                self.step_seconds.extend(np.array([step]), np.array([time]), np.array([seconds]))
            self.steps += 1 if self.step is None else max(0, step - self.step)
            self.step, self.last_step_time = step, time

    def step_histogram(self) -> Histogram:
        return Histogram(STEP_BOUNDS, tuple(self.step_counts), self.step_sum)
