"""From receivers into run state and record: each record of a session once, acknowledged when it is on disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakSet

from rankscope.agent.component import Exporter, Unsafe
from rankscope.agent.model import Batch, Goodbye, Heartbeat, Media, RankInfo, RankKey, Text
from rankscope.agent.runs.state import Node, Rank

log = logging.getLogger("rankscope.ingest")

COMMIT_EVERY = 2.0  # seconds: what an acknowledgement waits for at most
COMMIT_AT = 10_000  # records not yet safe, over all ranks: a backlog waits for no clock
ROOM = 32 * 2**20  # bytes taken and not yet on disk, over all ranks; beyond it the streams wait


class _Writer:
    """The one thread that calls the record: what was taken becomes safe, in order."""

    def __init__(self, record: Exporter, failed: Callable[[str], None]) -> None:
        self._record = record
        self._failed = failed
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._dirty: dict[IntakeSession, int] = {}
        self._broken: WeakSet[IntakeSession] = WeakSet()  # of which the record refused something
        self._seen: set[type[Exception]] = set()
        self._urgent = False
        self._unsafe = 0  # records since the last commit
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def write(self, session: IntakeSession, batch: Batch) -> None:
        self._jobs.put(partial(self._write, session, batch))

    async def begin(self, rank: RankInfo) -> int:
        """Return the last safe sequence number of a session. Raises OSError."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()

        def job() -> None:
            try:
                if self._dirty:  # what an earlier stream of this session sent must be safe first
                    with contextlib.suppress(Unsafe):  # of others: where it is this rank, the record does not begin
                        self._commit()
                safe = self._record.begin(rank)
            except OSError as error:
                loop.call_soon_threadsafe(_fail, done, error)
            except Exception as error:  # noqa: BLE001 (the worker of the record: what it is, the rank hears)
                self._say(error, rank)
                loop.call_soon_threadsafe(_fail, done, OSError(f"{type(error).__name__}: {error}"))
            else:
                loop.call_soon_threadsafe(_resolve, done, safe)

        self._jobs.put(job)
        return await done

    async def close(self, deadline: float) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, deadline)

    def _write(self, session: IntakeSession, batch: Batch) -> None:
        if session in self._broken:
            return
        try:
            self._record.write(session.rank, batch)
        except Exception as error:  # noqa: BLE001 (likewise)
            # Nothing of this session counts as safe beyond what is: the rank sends it again, in another stream.
            self._say(error, session.rank)
            self._broken.add(session)
            session.loop.call_soon_threadsafe(session.lost, batch, error)
            return
        self._dirty[session] = batch.last
        self._unsafe += batch.last - batch.first + 1
        goodbye = any(isinstance(event, Goodbye) for event in batch.events)
        self._urgent = self._urgent or goodbye or self._unsafe >= COMMIT_AT

    def _say(self, error: Exception, rank: RankInfo) -> None:
        if type(error) not in self._seen:
            self._seen.add(type(error))
            log.error("the record refused points of rank %d of %s", rank.key.rank, rank.key.run, exc_info=error)

    def _commit(self) -> None:
        """Acknowledge what is safe. Raises OSError where something is not."""
        failed: Unsafe | None = None
        try:
            self._record.commit()
        except Unsafe as error:
            failed = error
        dirty, self._dirty, self._urgent, self._unsafe = self._dirty, {}, False, 0
        for session, last in dirty.items():
            if failed is not None and session.rank.key in failed.ranks:
                self._dirty[session] = last
            else:
                session.loop.call_soon_threadsafe(session.set_safe, last)
        if failed is not None:
            raise failed

    def _run(self) -> None:
        due = time.monotonic() + COMMIT_EVERY
        closing = False
        while not closing:
            try:
                job = self._jobs.get(timeout=max(0.0, due - time.monotonic()))
                while True:
                    if job is None:
                        closing = True
                        break
                    job()
                    job = self._jobs.get_nowait()
            except queue.Empty:
                pass
            if self._dirty and (closing or self._urgent or time.monotonic() >= due):
                try:
                    self._commit()
                except Exception as error:  # whatever it is, the next commit tries again
                    self._urgent = False
                    if not isinstance(error, OSError):
                        log.exception("cannot write the record")
                    self._failed(f"cannot write the record: {error}")
            if time.monotonic() >= due:
                due = time.monotonic() + COMMIT_EVERY
        try:
            self._record.close()
        except OSError as error:
            self._failed(f"cannot close the record: {error}")


def weight(batch: Batch) -> int:
    """Return about how many bytes a batch holds in memory."""
    rows = sum(block.value.nbytes + block.step.nbytes + block.time.nbytes for block in batch.blocks)
    words = sum(len(event.value) if isinstance(event, Text) else 256 for event in batch.events)
    return rows + words + sum(len(event.data) for event in batch.events if isinstance(event, Media))


def _resolve(future: asyncio.Future[int], value: int) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[int], error: OSError) -> None:
    if not future.done():
        future.set_exception(error)


class IntakeSession:
    """One session of one rank: what came last, what is safe, and who waits for either."""

    def __init__(self, intake: Ingest, rank: RankInfo, state: Rank, safe: int) -> None:
        self.rank = rank
        self.loop = asyncio.get_running_loop()
        self._intake = intake
        self._state = state
        self._taken = self._safe = self._reported = safe
        self._unsafe: deque[tuple[int, int]] = deque()  # last sequence number and bytes of batches not yet on disk
        self._saved = asyncio.Event()
        self._open = True

    @property
    def safe(self) -> int:
        self._end: Exception = ConnectionAbortedError("another stream goes on with this session")
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
            self._saved.clear()
            await self._saved.wait()
        self._reported = self._safe
            if not self._open:
                raise self._end
        return self._reported

    def close(self) -> None:
        if self._open:
            self._open = False
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
    _waiting: int = 0

    def __post_init__(self) -> None:
        self.room.set()
        self._writer = _Writer(self.record, self.failed) if self.record is not None else None

    async def open(self, hello: RankInfo) -> IntakeSession:
            self._saved.set()
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

    def write(self, session: IntakeSession, batch: Batch, size: int) -> None:
        """Hand a batch of `size` bytes on to the record, or call it safe where there is none."""
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
