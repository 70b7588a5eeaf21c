"""The loop around the samplers: what fails or hangs says so, and holds up nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from rankscope.agent.model import Metric, Sample
from rankscope.agent.runs.state import Node
from rankscope.agent.sampling import Sampling
from rankscope.agent.telemetry import Telemetry

VALUE = Metric("value", "gauge", "")


@dataclass
class Probe:
    """Does what the test says."""

    read: Callable[[], float]
    interval: float = 0.01
    closed: threading.Event = field(default_factory=threading.Event)

    metrics: ClassVar[tuple[Metric, ...]] = (VALUE,)

    def sample(self, node: Node) -> Iterable[Sample]:
        yield Sample(VALUE, self.read())

    def close(self) -> None:
        self.closed.set()


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


def test_a_sampler_that_hangs_is_said_to_fail_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankscope.agent.sampling.DEADLINE", 0.05)
    node, telemetry, free = Node("n"), Telemetry(), threading.Event()

    def hang() -> float:
        free.wait(20)
        return 1.0

    async def run() -> None:
        sampling = Sampling(node, telemetry)
        sampling.start({"hangs": Probe(hang), "lives": Probe(lambda: 2.0)})
        await until(lambda: "hangs" in node.failing)
        taken = node.sampled["lives"]
        await until(lambda: node.sampled["lives"] > taken)
        assert "no answer within" in node.failing["hangs"]
        assert not telemetry.samplers["hangs"].up
        free.set()
        await until(lambda: "hangs" in node.sampled)
        assert "hangs" not in node.failing
        sampling.stop()

    asyncio.run(run())


def test_what_a_sampler_raises_is_why_it_fails_until_it_works_again() -> None:
    node, answers = Node("n"), iter([1.0, None])

    def read() -> float:
        answer = next(answers, 3.0)
        if answer is None:
            raise OSError("no such disk")
        return answer

    async def run() -> None:
        telemetry = Telemetry()
        sampling = Sampling(node, telemetry)
        sampling.start({"disk": Probe(read)})
        await until(lambda: node.latest("value") == {(): 3.0})
        assert telemetry.samplers["disk"].errors == 1
        assert telemetry.samplers["disk"].up
        sampling.stop()
        assert node.samples == {}, "what is not sampled any more is stale"

    asyncio.run(run())


def test_a_sampler_is_closed_when_it_has_ended_what_it_reads() -> None:
    """A file that is closed under a read may be somebody else's by then."""
    reading, free = threading.Event(), threading.Event()

    def read() -> float:
        reading.set()
        free.wait(20)
        return 1.0

    async def run() -> None:
        probe = Probe(read)
        sampling = Sampling(Node("n"), Telemetry())
        sampling.start({"disk": probe})
        await until(reading.is_set)
        sampling.stop()
        await asyncio.sleep(0.05)
        assert not probe.closed.is_set()
        free.set()
        await until(probe.closed.is_set)

    asyncio.run(run())


def test_a_sampler_that_is_switched_off_leaves_nothing_behind() -> None:
    """One that failed does not go on to make the agent blind, and what one gave is not there for ever."""
    node, telemetry = Node("n"), Telemetry()

    def fail() -> float:
        raise OSError("no such disk")

    async def run() -> None:
        sampling = Sampling(node, telemetry)
        sampling.start({"fails": Probe(fail), "works": Probe(lambda: 1.0), "stays": Probe(fail)})
        await until(lambda: {"fails", "stays"} <= node.failing.keys() and node.latest("value") == {(): 1.0})
        sampling.start({"stays": Probe(fail)})
        assert node.failing.keys() <= {"stays"}
        assert not node.latest("value")
        assert not node.sampled
        assert telemetry.samplers.keys() == {"stays"}
        assert telemetry.samplers["stays"].errors > 0, "a counter does not begin anew"
        sampling.stop()

    asyncio.run(run())


PROGRAM = """
import asyncio, threading
from rankscope.agent.runs.state import Node
from rankscope.agent.sampling import Sampling
from rankscope.agent.telemetry import Telemetry

class Stuck:
    interval, metrics = 1.0, ()
    reading = threading.Event()
    def sample(self, node):
        self.reading.set()
        threading.Event().wait()
    def close(self): pass

async def run():
    sampling = Sampling(Node("n"), Telemetry())
    sampling.start({"disk": Stuck()})
    while not Stuck.reading.is_set():
        await asyncio.sleep(0.01)
    sampling.stop()

asyncio.run(run())
"""


def test_a_sampler_that_hangs_for_ever_does_not_keep_the_agent_from_ending() -> None:
    """As one does that asks a network file system whose server is gone."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60, capture_output=True, text=True)
    assert ended.stderr == ""
