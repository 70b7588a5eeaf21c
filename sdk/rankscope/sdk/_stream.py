"""Delivers one journal to the agent over one gRPC stream at a time, and comes back after whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import grpc
import grpc.aio

from rankscope.sdk._address import reachable, socket_identity
from rankscope.sdk._allowance import Allowance
from rankscope.sdk._batch import Batches
from rankscope.sdk._commands import Commands
from rankscope.sdk._live import Glance
from rankscope.sdk._reader import Reader
from rankscope.sdk._records import Event, Rows
from rankscope.v1 import ingest_pb2, ingest_pb2_grpc

PROTOCOL = 1
BATCH_RECORDS = 5_000
BATCH_BYTES = 1_000_000
RECORDS_A_SECOND = 20_000  # a backlog is drained no faster than this
UNACKED_RECORDS = 15_000
POLL, POLL_MOST = 0.1, 0.5  # seconds until the next look at the journal: a third of how long nothing came
PAUSE = 0.1  # seconds for each record of a write until the next: a write costs as much as hundreds of records
PAUSE_MOST = 1.0
SILENT_SECONDS = 30.0  # without a welcome, or an acknowledgement of what was sent, a stream counts as dead
BACKOFF_FIRST, BACKOFF_MOST = 0.05, 5.0

Call: TypeAlias = "grpc.aio.StreamStreamCall[ingest_pb2.FromRank, ingest_pb2.FromAgent]"

_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.use_local_subchannel_pool", 1),  # a new channel begins afresh, without the old one's backoff
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


class Lost(Exception):
    """The stream is of no use any more; the text says why."""


@dataclass
class Delivery:
    """Sends what a journal holds until `stop()` says that it is enough, or all of a finished journal is safe."""

    address: str
    token: str
    hello: ingest_pb2.Hello
    reader: Reader
    glance: Glance
    stop: Callable[[], bool]  # asked at every look: True ends the delivery
    welcomed: Callable[[ingest_pb2.Welcome], None] = lambda _: None
    refused: Callable[[str], None] = lambda _: None  # the agent says no; the text is its own
    wall_offset: Callable[[], int] | None = None  # wall clock minus CLOCK_MONOTONIC now; None: the segment's own
    where: Callable[[], Awaitable[str]] | None = None  # the stacks of a rank that lives; raises Unknown
    final: int | None = None  # the last record of a journal that is complete
    acked: int = 0
    connected: bool = False
    progress: float = field(default_factory=time.monotonic)  # when something was last acknowledged or welcomed
    _limit: int = BATCH_RECORDS  # records a batch; fewer while the agent refuses one of them
    _skip: set[int] = field(default_factory=set[int])  # records that the agent will not take
    _waiter: asyncio.Future[None] | None = None
    _woken: bool = False  # while nothing waited
    _waits: bool = False  # for acknowledgements, before more may be sent
    _alive: float = 0.0  # when the stream last did something
    _allowance: Allowance = field(default_factory=lambda: Allowance(RECORDS_A_SECOND))

    async def run(self) -> bool:
        """Deliver; True when all of a complete journal is safe."""
        backoff = BACKOFF_FIRST
        while not self.done and not self.stop():
            before = self.progress
            try:
                if reachable(self.address):
                    await self._supervised()
            except grpc.aio.AioRpcError as error:
                self._failed(error)
            except (Lost, OSError, asyncio.TimeoutError, asyncio.InvalidStateError):
                pass  # the last is what gRPC raises for a write on a stream that has just ended
            self.connected = self._woken = False  # what was urgent waits for the next stream
            backoff = BACKOFF_FIRST if self.progress > before else min(BACKOFF_MOST, backoff * 2)
            if not self.done:
                await self._pause(backoff * random.uniform(0.5, 1.5))
        return self.done

    @property
    def done(self) -> bool:
        return self.final is not None and self.acked >= self.final

    def wake(self) -> None:
        """Look at the journal now, or as soon as what is under way is done."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        else:
            self._woken = True

    async def _supervised(self) -> None:
        """Hold one stream; let go of it when it is to end, or hangs: an agent that is wedged blocks a write."""
        self._alive = time.monotonic()
        stream = asyncio.ensure_future(self._stream())
        while not stream.done():
            await asyncio.wait({stream}, timeout=2.0 if self.connected else 0.5)
            if not stream.done() and (self.stop() or time.monotonic() - self._alive > SILENT_SECONDS):
                stream.cancel()
                await asyncio.wait({stream}, timeout=1.0)
                break
        if stream.done() and not stream.cancelled():
            stream.result()

    async def _stream(self) -> None:
        async with grpc.aio.insecure_channel(self.address, options=_OPTIONS) as channel:
            metadata = (("authorization", f"Bearer {self.token}"),) if self.token else None
            stub = cast("ingest_pb2_grpc.IngestAsyncStub", ingest_pb2_grpc.IngestStub(channel))
            call: Call = stub.Stream(metadata=metadata)
            try:
                await call.write(ingest_pb2.FromRank(hello=self.hello))
                first = await asyncio.wait_for(self._next(call), SILENT_SECONDS)
                if first.WhichOneof("body") != "welcome":
                    raise Lost("the agent did not say welcome")
                self._welcome(first.welcome)
                commands = Commands(self.glance, self.where, self.wake)
                listener = asyncio.ensure_future(self._listen(call, commands))
                listener.add_done_callback(lambda _: self.wake())
                try:
                    await self._send(call, listener, commands, first.welcome.heartbeat_seconds or 5.0)
                finally:
                    listener.cancel()
                    with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError, Lost):
                        await listener
            finally:
                call.cancel()

    def _welcome(self, welcome: ingest_pb2.Welcome) -> None:
        self.connected = True
        self.progress = self._alive = time.monotonic()
        self._safe(welcome.safe_sequence)
        self.reader.seek(welcome.safe_sequence + 1)
        self.welcomed(welcome)

    async def _send(self, call: Call, listener: asyncio.Future[None], commands: Commands, every: float) -> None:
        batches, beat, busy, sent, ends = Batches(), 0.0, time.monotonic(), self.acked, False
        while not self.done and not self.stop():
            if listener.done():
                await listener
                raise Lost("the agent ended the stream")
            now = self._alive = time.monotonic()
            if now >= beat or (self.final is not None and not ends):  # what it dropped in its last moment counts, too
                ends = self.final is not None
                self.glance.look()
                await call.write(ingest_pb2.FromRank(heartbeat=self._heartbeat()))
                beat = now + every
            while commands.answers:
                await call.write(commands.answers.pop())
            room = min(self._limit, UNACKED_RECORDS - (sent - self.acked), self._allowance.left(now))
            if self._limit < BATCH_RECORDS and sent > self.acked:
                room = 0  # one of the next records is refused: find out which
            self._waits = room <= 0
            count = 0
            if room > 0 and self.reader.news():
                first, found = self.reader.read(room, BATCH_BYTES)
                count = sum(len(one) for one in found)
                if found:
                    await call.write(ingest_pb2.FromRank(batch=self._batch(batches, first, found)))
                    sent, busy = first + count - 1, now
                    self._allowance.take(count)
            if sent > self.acked and now - max(self.progress, busy) > SILENT_SECONDS:
                raise Lost("the agent acknowledges nothing")
            if count >= min(room, 1000) > 0:
                continue  # a backlog
            if count or room <= 0:
                await self._pause(min(PAUSE_MOST, PAUSE * max(1, count)))
            else:
                await self._news(busy, min(beat, now + 5.0))

    def _batch(self, batches: Batches, first: int, found: Sequence[Rows | Event]) -> ingest_pb2.Batch:
        offset = self.reader.clock_offset if self.wall_offset is None else self.wall_offset()
        left_out = {sequence - first for sequence in self._skip if sequence >= first}
        batch, unreadable = batches.make(first, found, self.reader.shape, offset, left_out)
        self.glance.refused += unreadable
        return batch

    async def _listen(self, call: Call, commands: Commands) -> None:
        while True:
            message = await self._next(call)
            kind = message.WhichOneof("body")
            if kind == "ack":
                self.progress = time.monotonic()
                self._safe(message.ack.sequence)
                if self.final is not None or self._waits:  # else this is no reason to send what little came
                    self.wake()
            elif kind == "command":
                commands.obey(message.command)

    async def _next(self, call: Call) -> ingest_pb2.FromAgent:
        message = await call.read()
        if isinstance(message, ingest_pb2.FromAgent):
            return message
        code = await call.code()  # the end of the stream
        raise (
            Lost(f"the agent ended the stream: {code.name}")
            if code == grpc.StatusCode.OK
            else _error(code, await call.details())
        )

    def _safe(self, sequence: int) -> None:
        if sequence > self.acked:
            self.acked = sequence
            self.glance.acked(sequence)
            self.reader.forget(sequence)
            self._limit = min(BATCH_RECORDS, self._limit * 2)

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            self.refused(error.details() or "it is not allowed")
        elif error.code() == grpc.StatusCode.INVALID_ARGUMENT:
            self.refused(error.details() or "it makes no sense to it")
            self._smaller()
        elif error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and self.connected:
            self._smaller()  # a message was larger than this agent takes

    def _smaller(self) -> None:
        """Send less at a time, down to the one record that the agent will not take; leave that one out."""
        if self.connected and self._limit == 1:
            self._skip.add(self.acked + 1)
            self.glance.refused += 1
        self._limit = max(1, self._limit // 8)

    def _heartbeat(self) -> ingest_pb2.Heartbeat:
        glance, now = self.glance, time.monotonic_ns()
        calls, spent, at = glance.cost
        offset = self.reader.clock_offset if self.wall_offset is None else self.wall_offset()
        return ingest_pb2.Heartbeat(
            monotonic_ns=now,
            clock_offset_ns=offset,
            journal_bytes=self.reader.waiting(),
            dropped=glance.dropped,
            log_seconds=glance.log_seconds,
            overhead_ratio=spent / max(1, at - glance.started) if calls else 0.0,
            phase=glance.phase,
            step=self.reader.step,
        )

    async def _news(self, since: float, until: float) -> None:
        """Wait for news in the journal, or `wake()`; nothing came since one time, something else is due at the other.

        A callback looks: it costs a fraction of a task that is woken for nothing.
        """
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()

        def later() -> None:
            loop.call_later(min(POLL_MOST, max(POLL, (time.monotonic() - since) / 3)), look)

        def look() -> None:
            try:
                due = self.reader.news() or time.monotonic() >= until or self.stop() or self.final is not None
            except OSError:
                due = True  # the next read says the same
            if waiter.done():
                return
            if due:
                waiter.set_result(None)
            else:
                later()

        later()
        if self._woken:
            waiter.set_result(None)
        self._woken = False
        await waiter

    async def _pause(self, seconds: float) -> None:
        """Wait, or until `wake()`; while the agent's socket is away, also until there is a new one."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (0.0 if self._woken else seconds)
        self._woken = False
        socket = None if self.connected else socket_identity(self.address)
        while (left := end - loop.time()) > 0:
            waiter = self._waiter = loop.create_future()
            timer = loop.call_later(left if self.connected else min(left, POLL_MOST / 2), self.wake)
            await waiter
            timer.cancel()
            if self.connected or self.stop() or socket_identity(self.address) != socket:
                return


def _error(code: grpc.StatusCode, details: str | None) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, metadata, metadata, details)
