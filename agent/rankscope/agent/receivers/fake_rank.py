"""A rank made of nothing but the protocol: for tests and benchmarks of an agent, without a training or an SDK."""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

import grpc

from rankscope.v1 import ingest_pb2, ingest_pb2_grpc


class FakeRank:
    """Speaks for one rank over a stream of its own.

    `with FakeRank("unix:/run/…") as rank: rank.log(1, {"loss": 2.0}); rank.wait_safe()`. Errors of the stream are
    raised as grpc.RpcError by whatever waits next.
    """

    def __init__(
        self,
        address: str,
        *,
        run_id: str = "fake",
        rank: int = 0,
        world_size: int = 1,
        project: str = "fakes",
        name: str = "fake",
        session: int = 0,
        attempt: int = 0,
        config: Mapping[str, object] | None = None,
        token: str = "",
        pid: int | None = None,
    ) -> None:
        self.hello = ingest_pb2.Hello(
            protocol=1,
            sdk_version="fake",
            session=session or int.from_bytes(os.urandom(7), "big") + 1,
            run_id=run_id,
            project=project,
            name=name,
            attempt=attempt,
            rank=rank,
            local_rank=rank,
            world_size=world_size,
            local_world_size=world_size,
            hostname=socket.gethostname(),
            pid=os.getpid() if pid is None else pid,
            started_unix_seconds=time.time(),
            config_json=json.dumps(config or {}),
        )
        self.welcome: ingest_pb2.Welcome | None = None
        self.safe = 0
        self.sent = 0
        self._series: dict[str, int] = {}
        self._out: queue.SimpleQueue[ingest_pb2.FromRank | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._error: grpc.RpcError | None = None
        self._channel = grpc.insecure_channel(address)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._thread = threading.Thread(target=self._listen, name=f"fake rank {rank}", daemon=True)

    def __enter__(self) -> FakeRank:
        self._out.put(ingest_pb2.FromRank(hello=self.hello))
        self._thread.start()
        self._wait(lambda: self.welcome is not None, 10.0)
        self.sent = self.safe
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.put(None)
        self._thread.join(5.0)
        self._channel.close()

    def log(self, step: int, scalars: Mapping[str, float], phases: Mapping[str, float] | None = None) -> None:
        """Send one row, logged now."""
        self.rows(
            [step], [time.monotonic_ns()], scalars, list(scalars.values()) + list((phases or {}).values()), phases
        )

    def rows(
        self,
        steps: Sequence[int],
        monotonic_ns: Sequence[int],
        names: Mapping[str, float] | Sequence[str],
        values: Sequence[float],
        phases: Mapping[str, float] | Sequence[str] | None = None,
    ) -> None:
        """Send rows in one batch; `values` go row by row, scalars first, then phases."""
        batch = self.batch(len(steps))
        columns = [(name, ingest_pb2.Series.SCALAR) for name in names]
        columns += [(name, ingest_pb2.Series.PHASE) for name in phases or ()]
        numbers: list[int] = []
        for name, kind in columns:
            number = self._series.get(name)
            if number is None:
                number = self._series[name] = len(self._series)
                batch.series.add(id=number, name=name, kind=kind)
            numbers.append(number)
        batch.blocks.add(series=numbers, step=steps, monotonic_ns=monotonic_ns, value=values)
        self.send(ingest_pb2.FromRank(batch=batch))

    def event(self, step: int, body: ingest_pb2.Event) -> None:
        """Send an event; its step and time are filled in."""
        batch = self.batch(1)
        body.step, body.monotonic_ns = step, time.monotonic_ns()
        batch.events.append(body)
        self.send(ingest_pb2.FromRank(batch=batch))

    def goodbye(self, step: int = 0, reason: ingest_pb2.Goodbye.Reason.ValueType = ingest_pb2.Goodbye.FINISHED) -> None:
        self.event(step, ingest_pb2.Event(goodbye=ingest_pb2.Goodbye(reason=reason)))

    def batch(self, records: int) -> ingest_pb2.Batch:
        """Return an empty batch that takes the next sequence numbers."""
        batch = ingest_pb2.Batch(
            first_sequence=self.sent + 1, records=records, clock_offset_ns=time.time_ns() - time.monotonic_ns()
        )
        self.sent += records
        return batch

    def send(self, message: ingest_pb2.FromRank) -> None:
        self._out.put(message)

    def wait_safe(self, patience: float = 10.0) -> None:
        """Wait until all that was sent is acknowledged. Raises TimeoutError or grpc.RpcError."""
        self._wait(lambda: self.safe >= self.sent, patience)

    def wait_refused(self, patience: float = 10.0) -> grpc.RpcError:
        """Wait until the agent ends the stream; return its error. Raises TimeoutError when it does not."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._error is not None, patience):
                raise TimeoutError("the agent did not refuse")
        assert self._error is not None
        return self._error

    def _wait(self, done: Callable[[], bool], patience: float) -> None:
        with self._changed:
            fine = self._changed.wait_for(lambda: done() or self._error is not None, patience)
        if self._error is not None and not done():
            raise self._error
        if not fine:
            raise TimeoutError(f"no answer from the agent within {patience:g} s")

    def _messages(self) -> Iterator[ingest_pb2.FromRank]:
        while (message := self._out.get()) is not None:
            yield message

    def _listen(self) -> None:
        stub = ingest_pb2_grpc.IngestStub(self._channel)
        try:
            for answer in stub.Stream(self._messages(), metadata=self._metadata):
                with self._changed:
                    if answer.HasField("welcome"):
                        self.welcome = answer.welcome
                        self.safe = answer.welcome.safe_sequence
                    elif answer.HasField("ack"):
                        self.safe = answer.ack.sequence
                    self._changed.notify_all()
        except grpc.RpcError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
