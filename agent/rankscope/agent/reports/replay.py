"""Puts recorded rows to the rules as the agent would have: what fires, when, and at which point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rankscope.agent.component import Rule
from rankscope.agent.model import Batch, Block, Column, Finding, Heartbeat, Incomplete, RankInfo, RankKey, Severity
from rankscope.agent.reports.rows import CHUNK, MIN_GAP, Chunk, Part, Row, chunks
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.roles import Roles
from rankscope.agent.runs.state import Node, Run

PROJECT = "recorded"
MANY = 4.0  # times the usual seconds of a step that are not yet a pause
FINE = 8  # rows judged together where some rule waits before it fires


@dataclass(frozen=True, slots=True)
class Fired:
    """A finding at the moment it fired."""

    rule: str
    severity: Severity
    run: str
    finding: Finding


@dataclass(slots=True)
class Replay:
    """One recorded run before a set of rules. Rows go in, in their order; what fires comes out, in its order."""

    rules: Sequence[tuple[str, Rule]]
    run: str
    roles: Roles = field(default_factory=Roles)
    config: dict[str, object] = field(default_factory=dict[str, object])
    world: int = 1  # ranks that the record is of
    lacking: dict[str, str] = field(default_factory=dict[str, str])  # why a rule never judged, by rule
    told: list[Fired] = field(default_factory=list[Fired])  # for callers that gather what fired
    steps: int = 0
    rows: int = 0
    _node: Node = field(init=False)
    _judged: set[str] = field(default_factory=set[str])
    _active: dict[tuple[object, ...], tuple[int, float]] = field(
        default_factory=dict[tuple[object, ...], tuple[int, float]]
    )
    _fired: set[tuple[object, ...]] = field(default_factory=set[tuple[object, ...]])
    _clock: float = math.nan
    _waits: bool = False  # some rule that can judge waits before it fires

    def __post_init__(self) -> None:
        self._node = Node("recorded", roles=self.roles)

    def feed(self, rows: Iterable[Row]) -> Iterator[Fired]:
        """Take rows; yield what fires, as it fires."""
        for chunk in chunks(rows, lambda: FINE if self._waits else CHUNK):
            yield from self.take(chunk)

    def take(self, chunk: Chunk) -> Iterator[Fired]:
        """Take one chunk; yield what fires in it."""
        first = self._first_time(chunk)
        if first - self._clock > MIN_GAP and not self._explained(chunk):
            yield from self._judge(first, chunk)  # the clock went on before anything came
        for rank, part in chunk.parts.items():
            self._apply(self._rank(rank, chunk), part, rank)
        for rank, step, time in chunk.beats:
            self._rank(rank, chunk).beat(Heartbeat(time, step), time)
        self.rows += chunk.rows
        self._clock = chunk.time
        yield from self._judge(self._clock, chunk)

    def _explained(self, chunk: Chunk) -> bool:
        """Tell whether the time before a chunk went into steps that were only not logged."""
        for number, part in chunk.parts.items():
            rank = self._ranks().get(number)
            if rank is None or rank.step is None:
                return True
            steps, gap = int(part.step[0]) - rank.step, float(part.time[0]) - rank.last_step_time
            usual = rank.step_seconds.value[-64:]
            if steps > 0 and len(usual) and gap / steps < MANY * float(np.median(usual)):
                return True
        return not self._ranks()

    def _first_time(self, chunk: Chunk) -> float:
        times = [float(part.time[0]) for part in chunk.parts.values() if len(part.time)]
        times += [time for _, _, time in chunk.beats]
        return min((time for time in times if not math.isnan(time)), default=math.nan)

    def _ranks(self) -> dict[int, Rank]:
        run = self._node.runs.get((PROJECT, self.run))
        return run.ranks if run is not None else {}

    def _rank(self, number: int, chunk: Chunk) -> Rank:
        rank = self._ranks().get(number)
        if rank is None:
            key = RankKey(PROJECT, self.run, number)
            began = self._first_time(chunk)
            info = RankInfo(
                key,
                1,
                self.run,
                world_size=self.world,
                local_world_size=self.world,
                started=began,
                config=self.config,
            )
            rank = self._node.attach(info, began)
        return rank

    def _apply(self, rank: Rank, part: Part, number: int) -> None:
        columns: tuple[Column, ...] = ()
        blocks = [Block(columns, part.step, part.time, np.empty((len(part.step), 0)))]
        for name, (index, value) in part.columns.items():
            base, _, owner = name.partition(OF_RANK)
            column = Column(base.removeprefix(PHASE), "phase") if base.startswith(PHASE) else Column(base)
            block = Block((column,), part.step[index], part.time[index], value[:, None], late=True)
            if owner and int(owner) != number:
                other = self._rank(int(owner), Chunk({number: part}))
                steps = Block(columns, block.step, block.time, np.empty((len(block.step), 0)))
                other.apply(Batch(0, 0, (steps, block)), float(part.time[-1]))
            else:
                blocks.append(block)
        before = rank.steps
        rank.apply(Batch(0, 0, tuple(blocks)), float(part.time[-1]))
        self.steps += rank.steps - before

    def _judge(self, now: float, chunk: Chunk) -> Iterator[Fired]:
        run = self._node.runs.get((PROJECT, self.run))
        if run is None:
            return
        fired: list[tuple[int, int, Fired]] = []
        active: dict[tuple[object, ...], tuple[int, float]] = {}
        for order, (name, rule) in enumerate(self.rules):
            if rule.scope != "run":
                continue
            verdict = rule.check(self._node, run, now)
            if isinstance(verdict, Incomplete):
                if name not in self._judged:
                    self.lacking[name] = verdict.reason
                continue
            self._judged.add(name)
            self._waits = self._waits or bool(rule.for_.steps or rule.for_.seconds)
            self.lacking.pop(name, None)
            for finding in verdict:
                key = (name, finding.rank, finding.gpu, tuple(sorted(finding.labels.items())), finding.step)
                if key in self._fired:
                    active[key] = (0, 0.0)
                elif self._held(key, rule, finding, active, run, now):
                    self._fired.add(key)
                    active[key] = (0, 0.0)
                    what = Fired(name, finding.severity or rule.severity, self.run, finding)
                    fired.append((_place(chunk, finding), order, what))
        self._active = active
        self._fired &= active.keys()
        yield from (what for _, _, what in sorted(fired, key=lambda item: item[:2]))

    def _held(
        self,
        key: tuple[object, ...],
        rule: Rule,
        finding: Finding,
        active: dict[tuple[object, ...], tuple[int, float]],
        run: Run,
        now: float,
    ) -> bool:
        """Tell whether a finding has lasted for as long as its rule waits."""
        step = max((rank.step or 0 for rank in run.ranks.values()), default=0)
        since = self._active.get(key) or (finding.step or step, finding.time or now)
        active[key] = since
        wait = rule.for_
        return step - since[0] >= wait.steps and (not wait.seconds or now - since[1] >= wait.seconds)


PHASE = "phase/"  # how the agent's record calls the seconds of phases
OF_RANK = "\0"  # a column called `name\0rank` belongs to that rank


def _place(chunk: Chunk, finding: Finding) -> int:
    """Return which row of the chunk made a finding fire; findings of older points come first."""
    part = chunk.parts.get(finding.rank if finding.rank is not None else -1) or next(iter(chunk.parts.values()), None)
    if part is None or finding.step is None:
        return chunk.rows
    found = np.flatnonzero(part.step == finding.step)
    if len(found) > 1 and len(same := found[part.time[found] == finding.time]):
        found = same
    return int(part.row[found[0]]) if len(found) else -1
