"""Stand-ins to test parts with: a server that notes what it is sent, runs, ranks, batches and notifications."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from rankscope.agent.alerts.engine import Alerts
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Notification
from rankscope.agent.model import Batch, Block, Cause, Column, Finding, RankInfo, RankKey, Severity, Span, Verdict
from rankscope.agent.runs.state import Node, Run

AT_ONCE = Span()


class Arrived(NamedTuple):
    """One request that an inbox received."""

    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    time: float  # Unix seconds

    def json(self) -> object:
        """Return the body, which must be JSON without a bare NaN."""
        return json.loads(self.body, parse_constant=_no_constant)


def _no_constant(name: str) -> object:
    raise AssertionError(f"{name} stands bare in JSON: no other parser takes it")


@dataclass
class Inbox:
    """A real HTTP server on this machine that keeps what it is sent, and answers as told.

    `answers` are status codes, used up one by one, then 200; 0 hangs up without an answer, -1 never answers.
    """

    answers: list[int] = field(default_factory=list[int])
    headers: dict[str, str] = field(default_factory=dict[str, str])
    answer: bytes | None = None  # the body to answer with; None: what was sent, as many servers do
    arrived: list[Arrived] = field(default_factory=list[Arrived])
    url: str = ""

    def wait(self, count: int, seconds: float = 10.0) -> list[Arrived]:
        """Return the first `count` requests. Raises AssertionError when they do not come in time."""
        deadline = time.monotonic() + seconds
        while len(self.arrived) < count:
            assert time.monotonic() < deadline, f"{len(self.arrived)} of {count} requests came within {seconds:g} s"
            time.sleep(0.005)
        return self.arrived[:count]


@contextmanager
def inbox() -> Generator[Inbox, None, None]:
    """Run an HTTP server for the time of a test."""
    box = Inbox()
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(length)
            if len(body) < length:  # the sender was killed in the middle: that is no request
                self.close_connection = True
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = box.answers.pop(0) if box.answers else 200
            if status <= 0:
                if status < 0:
                    over.wait()
                self.close_connection = True
                return
            box.arrived.append(Arrived(self.path, headers, body, time.time()))
            answer = box.answer if box.answer is not None else b"{}" if status < 300 else self.path.encode() + body
            if status == 204:
                answer = b""
            self.send_response(status)
            for name, value in box.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the parent's
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    box.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield box
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


# --- something to judge and to send -----------------------------------------------------------------------------------


@dataclass
class FixedRule:
    """A rule without an opinion: the engine only wants its severity and how long a condition must hold."""

    severity: Severity = "warning"
    for_: Span = AT_ONCE
    resolve_after: Span | None = None
    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ()

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        """Find nothing."""
        return ()


def a_rank(rank: int = 0, *, project: str = "demo", run: str = "exp-1-0a1b2c3d", world_size: int = 8) -> RankInfo:
    """Return a rank of a run."""
    return RankInfo(RankKey(project, run, rank), session=100 + rank, run_id="id-1", name="exp-1", world_size=world_size)


def a_run(ranks: int = 8, *, project: str = "demo", name: str = "exp-1-0a1b2c3d", now: float = 0.0) -> tuple[Node, Run]:
    """Return a node and a run on it, whose ranks have said hello and nothing else."""
    node = Node("node-1")
    for rank in range(ranks):
        node.attach(a_rank(rank, project=project, run=name, world_size=ranks), now)
    return node, node.runs[project, name]


def a_notification(name: str = "LossNaN", *, resolved: bool = False) -> Notification:
    """Return a notification as the alert engine makes it: a NaN on two ranks, of a run with an unpleasant name."""
    engine = Alerts("node-1", None, Settings(resolve_after=0.0, group_wait=0.0, group_interval=0.0))
    node, run = a_run(2, name="exp-1.<@everyone>&*_x-0a1b2c3d")
    del node
    causes = (
        Cause("an overflow in half precision", "grad_norm 3.1e38 one step before", "use bf16, or loss scaling"),
        Cause("the learning rate is too high", "lr 0.3, ten times that of step 90", "lower it by a factor of 10"),
    )
    found = tuple(
        Finding("loss is NaN at step 100", step=100, time=1e9, value=float("nan"), rank=rank, causes=causes)
        for rank in range(2)
    )
    rule = FixedRule("critical")
    engine.judge(name, rule, run, found, 1e9)
    (firing,) = engine.tick(1e9)
    if not resolved:
        return firing
    engine.judge(name, rule, run, (), 1e9 + 60)
    engine.tick(1e9 + 60)
    (over,) = engine.tick(1e9 + 61)
    return over


def a_batch(first: int, last: int, values: Sequence[float] | None = None) -> Batch:
    """Return records `first` to `last` of a session: one step each, a loss and a learning rate; NaN among them."""
    steps = np.arange(first, last + 1)
    loss = np.array(values, np.float64) if values is not None else np.where(steps == 3, np.nan, 1.0 / steps)
    value = np.stack([loss, np.full(len(steps), 1e-3)], axis=1)
    return Batch(first, last, (Block((Column("loss"), Column("lr")), steps, 1e9 + steps.astype(np.float64), value),))
