"""A small real agent for the SDK's tests: speaks the protocol over a real socket, and keeps what it is told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from rankscope.v1 import ingest_pb2, ingest_pb2_grpc


@dataclass
class Kept:
    """What one session said."""

    hello: ingest_pb2.Hello
    safe: int = 0
    rows: list[tuple[int, str, float]] = field(default_factory=list[tuple[int, str, float]])  # step, name, value
    late: list[tuple[int, str, float]] = field(default_factory=list[tuple[int, str, float]])
    phases: list[tuple[int, str, float]] = field(default_factory=list[tuple[int, str, float]])
    times: list[float] = field(default_factory=list[float])
    arrived: list[float] = field(default_factory=list[float])  # Unix seconds, one a row
    events: list[ingest_pb2.Event] = field(default_factory=list[ingest_pb2.Event])
    beats: list[ingest_pb2.Heartbeat] = field(default_factory=list[ingest_pb2.Heartbeat])
    stacks: list[ingest_pb2.Stacks] = field(default_factory=list[ingest_pb2.Stacks])
    gaps: int = 0
    repeated: int = 0
    batches: int = 0

    def scalar(self, name: str) -> list[tuple[int, float]]:
        return [(step, value) for step, found, value in self.rows if found == name]

    @property
    def goodbye(self) -> ingest_pb2.Goodbye | None:
        return next((event.goodbye for event in self.events if event.WhichOneof("body") == "goodbye"), None)


@dataclass
class Behaviour:
    """How the agent behaves, changed while it runs."""

    ack: bool = True
    ack_delay: float = 0.0
    welcome_delay: float = 0.0
    reset_after: int = 0  # batches after which every stream is broken off; 0: never
    refuse: Callable[[ingest_pb2.Batch], str] = lambda _: ""
    token: str = ""
    largest: int = 4 << 20  # bytes of a message; from the next start on
    heartbeat: float = 0.2


class Agent(ingest_pb2_grpc.IngestServicer):
    """Runs in a thread of its own. `sessions` survive `stop()` and `start()`, as an agent's event files do."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.address = f"unix:{socket}"
        self.sessions: dict[int, Kept] = {}
        self.behaviour = Behaviour()
        self.streams = 0
        self._questions: list[int] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: grpc.aio.Server | None = None

    def start(self) -> Agent:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def ask_for_stacks(self) -> None:
        """With the next heartbeat, ask the rank where it is."""
        self._questions.append(len(self.only.stacks) + 1)

    def stop(self) -> None:
        if self._loop is not None and self._server is not None:
            asyncio.run_coroutine_threadsafe(self._server.stop(0), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join(10)
        self._server = self._thread = self._loop = None

    def _run(self, ready: threading.Event) -> None:
        loop = self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(self._serve())
        ready.set()
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    async def _serve(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", self.behaviour.largest)])
        ingest_pb2_grpc.add_IngestServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def Stream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[ingest_pb2.FromRank],
        context: grpc.aio.ServicerContext[ingest_pb2.FromRank, ingest_pb2.FromAgent],
    ) -> AsyncIterator[ingest_pb2.FromAgent]:
        behaviour = self.behaviour
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if behaviour.token and given != f"Bearer {behaviour.token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        self.streams += 1
        messages = request_iterator.__aiter__()
        hello = (await messages.__anext__()).hello
        kept = self.sessions.setdefault(hello.session, Kept(hello))
        await asyncio.sleep(behaviour.welcome_delay)
        run = f"{hello.name}-{hello.run_id}"
        yield ingest_pb2.FromAgent(
            welcome=ingest_pb2.Welcome(
                protocol=1, safe_sequence=kept.safe, run=run, heartbeat_seconds=behaviour.heartbeat
            )
        )
        names: dict[int, ingest_pb2.Series] = {}
        batches = 0
        async for message in messages:
            if message.WhichOneof("body") == "heartbeat":
                kept.beats.append(message.heartbeat)
                while self._questions:
                    command = ingest_pb2.Command(id=self._questions.pop(), dump_stacks=ingest_pb2.DumpStacks())
                    yield ingest_pb2.FromAgent(command=command)
                continue
            if message.WhichOneof("body") == "stacks":
                kept.stacks.append(message.stacks)
                continue
            batches += 1
            if behaviour.reset_after and batches > behaviour.reset_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "reset")
            if why := behaviour.refuse(message.batch):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
            self._keep(kept, message.batch, names)
            if behaviour.ack:
                await asyncio.sleep(behaviour.ack_delay)
                yield ingest_pb2.FromAgent(ack=ingest_pb2.Ack(sequence=kept.safe))

    def _keep(self, kept: Kept, batch: ingest_pb2.Batch, names: dict[int, ingest_pb2.Series]) -> None:
        now = time.time()
        kept.batches += 1
        names.update({series.id: series for series in batch.series})
        if batch.first_sequence <= kept.safe:
            kept.repeated += 1
        kept.gaps += max(0, batch.first_sequence - kept.safe - 1)
        kept.safe = batch.first_sequence + batch.records - 1
        for block in batch.blocks:
            width = len(block.series)
            for row, step in enumerate(block.step):
                kept.times.append((block.monotonic_ns[row] + batch.clock_offset_ns) * 1e-9)
                kept.arrived.append(now)
                for column, number in enumerate(block.series):
                    series = names[number]
                    phase = series.kind == ingest_pb2.Series.PHASE
                    point = (step, series.name, block.value[row * width + column])
                    (kept.phases if phase else kept.late if block.late else kept.rows).append(point)
        kept.events.extend(batch.events)

    @property
    def only(self) -> Kept:
        """The one session there is."""
        (kept,) = self.sessions.values()
        return kept
