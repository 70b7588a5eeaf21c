"""From receivers into run state and record: each record of a session once, acknowledged when it is on disk."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rankscope.agent.component import Exporter
from rankscope.agent.model import Batch, Heartbeat, Media, RankInfo, RankKey, Stacks, Text
from rankscope.agent.questions import Questions
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node
from rankscope.agent.writing import Writer

log = logging.getLogger("rankscope.ingest")

OVERLAP = 5.0  # seconds that the points of a rank may go beyond the start of its next session
ROOM = 32 * 2**20  # bytes taken and not yet on disk, over all ranks; beyond it the streams wait


def weight(batch: Batch) -> int:
    """Return about how many bytes a batch holds in memory."""
    rows = sum(block.value.nbytes + block.step.nbytes + block.time.nbytes for block in batch.blocks)
    words = sum(len(event.value) if isinstance(event, Text) else 256 for event in batch.events)
    return rows + words + sum(len(event.data) for event in batch.events if isinstance(event, Media))


class IntakeSession:
    """One session of one rank: what came last, what is safe, and who waits for either."""

    def __init__(self, intake: Ingest, rank: RankInfo, state: Rank, safe: int) -> None:
        self.rank = rank
        self.questions = Questions()
        self.loop = asyncio.get_running_loop()
        self._intake = intake
        self._state = state
        self._taken = self._safe = self._reported = safe
        self._unsafe: deque[tuple[int, int]] = deque()  # last sequence number and bytes of batches not yet on disk
        self._saved = asyncio.Event()
        self._open = True
        self._end: Exception = ConnectionAbortedError("another stream goes on with this session")

    @property
    def safe(self) -> int:
        return self._safe

    async def take(self, batch: Batch) -> None:
        await self._intake.room.wait()
        if not self._open:
            raise self._end
        if batch.last <= self._taken:
            return
        if batch.first <= self._taken:
            raise ValueError(f"records {batch.first} to {batch.last} overlap with {self._taken}, the last one taken")
        if batch.first > self._taken + 1:
            self.refuse("gap", batch.first - self._taken - 1)
        self._taken = batch.last
        self._unsafe.append((batch.last, size := weight(batch)))
        self._state.apply(batch, self._intake.node.clock.now())
        if not all(np.isfinite(block.value).all() for block in batch.blocks):
            self._intake.hurry(self)
        self._intake.write(self, batch, size)

    def beat(self, heartbeat: Heartbeat) -> None:
        self._state.beat(heartbeat, self._intake.node.clock.now())

    def refuse(self, reason: str, points: int) -> None:
        self._state.refused[reason] = self._state.refused.get(reason, 0) + points

    def set_safe(self, sequence: int) -> None:
        """Records up to `sequence` are on disk (called in the event loop)."""
        self._safe = sequence
        self._settle(sequence)
        self._saved.set()

    def lost(self, batch: Batch, error: Exception) -> None:
        """The record will not take a batch: the stream ends, and the rank goes on from what is safe.

        Where that is not for lack of room, but for what the batch holds, the stream says so: the rank then finds out
        by ever smaller batches which record it is, and leaves that one out.
        """
        if isinstance(error, OSError):
            self._end = ConnectionAbortedError(f"cannot write the record: {error}")
        else:
            if batch.first == batch.last:
                self.refuse("record_error", 1)
            what = f"{type(error).__name__}: {error}"[:500]
            self._end = ValueError(f"the record cannot hold one of {batch.first} to {batch.last}: {what}")
        self._settle(self._taken)
        self.close()

    def _settle(self, sequence: int) -> None:
        while self._unsafe and self._unsafe[0][0] <= sequence:
            self._intake.wrote(self._unsafe.popleft()[1])

    async def saved(self) -> int:
        while self._safe == self._reported:
            if not self._open:
                raise self._end
            self._saved.clear()
            await self._saved.wait()
        self._reported = self._safe
        return self._reported

    async def asked(self) -> int | None:
        return await self.questions.next()

    def told(self, question: int, stacks: Stacks) -> None:
        self.questions.answered(question, stacks)

    def close(self) -> None:
        if self._open:
            self._saved.set()
            self._open = False
            self.questions.close()
            self._intake.closed(self, self._state)


@dataclass
class Ingest:
    """The agent's intake. `changed` is called with each rank of which something new is known."""

    node: Node
    record: Exporter | None
    changed: Callable[[Rank, Batch | None], None]
    failed: Callable[[str], None]
    room: asyncio.Event = field(default_factory=asyncio.Event)
    _sessions: dict[tuple[RankKey, int], IntakeSession] = field(
        default_factory=dict[tuple[RankKey, int], IntakeSession]
    )
    _shared: set[RankKey] = field(default_factory=set[RankKey])  # ranks that two jobs at once say they are
    _waiting: int = 0

    def __post_init__(self) -> None:
        self.room.set()
        self._writer = Writer(self.record, self.failed) if self.record is not None else None

    async def open(self, hello: RankInfo) -> IntakeSession:
        """Begin a session, or take it over from an earlier stream of it."""
        key = (hello.key, hello.session)
        safe = 0
        while True:
            if (old := self._sessions.pop(key, None)) is not None:
                safe = old.safe
                old.close()
            if self._writer is not None:
                safe = await self._writer.begin(hello)
            if key not in self._sessions:  # else another stream came meanwhile: what it has sent counts first
                break
        state = self.node.attach(hello, self.node.clock.now())
        session = self._sessions[key] = IntakeSession(self, hello, state, safe)
        log.info("rank %d of %s/%s is here, safe up to %d", hello.key.rank, hello.key.project, hello.key.run, safe)
        self.changed(state, None)
        return session

    def hurry(self, session: IntakeSession) -> None:
        """A rank has a number that is not finite: what the others have of that step says whose fault it is."""
        key = session.rank.key
        for (other, _), there in self._sessions.items():
            if there is not session and (other.project, other.run) == (key.project, key.run):
                there.questions.hurry()

    async def where(self, rank: RankKey, patience: float) -> Stacks:
        """Ask a rank where it is, and wait so many seconds for the answer."""
        found = [session for (key, _), session in self._sessions.items() if key == rank]
        return (
            await found[-1].questions.ask(patience)
            if found
            else Stacks(refused="not connected: it or its sender ended")
        )

    def write(self, session: IntakeSession, batch: Batch, size: int) -> None:
        """Hand a batch of `size` bytes on to the record, or call it safe where there is none."""
        self._compare(session, batch)
        self._waiting += size
        if self._waiting > ROOM:
            self.room.clear()
        if self._writer is not None:
            self._writer.write(session, batch)
        else:
            session.loop.call_soon(session.set_safe, batch.last)
        state = self.node.rank(session.rank.key)
        if state is not None:
            self.changed(state, batch)

    def _compare(self, session: IntakeSession, batch: Batch) -> None:
        """Say once that two jobs are the same rank of a run: the first goes on after the second began."""
        rank = session.rank
        others = [other.rank for (key, _), other in self._sessions.items() if key == rank.key]
        later = max(others, key=lambda other: other.started, default=rank)
        if later.started <= rank.started or rank.key in self._shared:
            return
        if any(block.time.max(initial=0.0) > later.started + OVERLAP for block in batch.blocks):
            self._shared.add(rank.key)
            log.warning(
                "processes %d and %d are both rank %d of %s/%s, and their points are mixed: give each job its own id",
                *sorted((rank.pid, later.pid)),
                *(rank.key.rank, rank.key.project, rank.key.run),
            )

    def wrote(self, size: int) -> None:
        self._waiting = max(0, self._waiting - size)
        if self._waiting <= ROOM // 2:
            self.room.set()

    def closed(self, session: IntakeSession, state: Rank) -> None:
        """A stream ended; the rank counts as connected only while a stream of its newest session is open."""
        key = (session.rank.key, session.rank.session)
        if self._sessions.get(key) is session:
            del self._sessions[key]
        state.connected = any(other == session.rank.key for other, _ in self._sessions)
        self.changed(state, None)

    async def close(self, deadline: float) -> None:
        """Make safe what was taken, in at most `deadline` seconds."""
        for session in list(self._sessions.values()):
            session.close()
        if self._writer is not None:
            await self._writer.close(deadline)
