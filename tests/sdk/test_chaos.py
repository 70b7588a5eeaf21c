"""Whatever is killed, in any order, under load: every point is in the event files exactly once."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from .chaos import Wall, World

pytestmark = pytest.mark.e2e


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.mark.parametrize(
    "order", ["rank", "agent", "rank, agent", "agent, rank", "sender, rank", "sender, agent, rank"]
)
def test_killed_in_this_order_under_load(world: World, order: str) -> None:
    world.start_agent()
    for _ in range(2):
        rank = world.start_rank()
        for _ in range(5):
            rank.tell("log 2000")
        for victim in order.split(", "):
            if victim == "rank":
                rank.kill()
            elif victim == "sender":
                rank.kill_sender()
            else:
                world.signal_agent(signal.SIGKILL)
            if victim != "rank" and "rank" not in order.split(", ")[: order.split(", ").index(victim)]:
                rank.tell("log 2000")
        if world.agent is None:
            world.start_agent()
        if rank.process.poll() is None:
            rank.tell("log 2000")
            rank.finish()
    world.settle()
    world.check()
    assert world.ends() == ["vanished" if "rank" in order else "finished"] * 2
    assert sum(rank.logged for rank in world.ranks) >= 20_000


def test_an_agent_killed_again_and_again_in_the_middle_of_writing(world: World) -> None:
    world.start_agent()
    rank = world.start_rank()
    for _ in range(5):
        for _ in range(10):
            rank.tell("log 1000")
        world.signal_agent(signal.SIGKILL)
        rank.tell("log 1000")
        world.start_agent()
    world.settle()
    world.check()


class Chaos(RuleBasedStateMachine):
    """Random sequences of what can happen to a rank, its sender and its agent."""

    def __init__(self) -> None:
        super().__init__()
        self.wall = self._wall()
        self.world = World(environment=self.wall.environment if self.wall is not None else None)
        self.small = self.world.small_disk("64m")
        self.stopped = False

    def _wall(self) -> Wall | None:
        if shutil.which("gcc") is None:
            return None
        self._place = tempfile.TemporaryDirectory()
        return Wall(Path(self._place.name))

    @initialize()
    def begin(self) -> None:
        self.world.start_agent()
        self.world.start_rank()

    @rule(count=st.sampled_from([1, 10, 1000, 20_000]))
    def log(self, count: int) -> None:
        if self.world.rank is not None:
            self.world.rank.tell(f"log {count}")

    @rule(how=st.sampled_from(["kill", "finish"]), again=st.booleans())
    def next_rank(self, how: str, again: bool) -> None:
        rank = self.world.rank
        assert rank is not None
        rank.full(False)
        rank.kill() if how == "kill" else rank.finish()
        self.world.start_rank(again)

    @rule()
    def kill_sender(self) -> None:
        assert self.world.rank is not None
        self.world.rank.kill_sender()

    @precondition(lambda self: self.world.agent is not None)
    @rule()
    def kill_agent(self) -> None:
        self.world.signal_agent(signal.SIGKILL)
        self.stopped = False

    @precondition(lambda self: self.world.agent is None)
    @rule(wait=st.booleans())
    def start_agent(self, wait: bool) -> None:
        self.world.start_agent(wait)

    @precondition(lambda self: self.world.agent is not None)
    @rule()
    def wedge_agent(self) -> None:
        self.world.signal_agent(signal.SIGCONT if self.stopped else signal.SIGSTOP)
        self.stopped = not self.stopped

    @rule(yes=st.booleans())
    def full_disk(self, yes: bool) -> None:
        assert self.world.rank is not None
        self.world.rank.full(yes)

    @precondition(lambda self: self.small)
    @rule(yes=st.booleans())
    def full_disk_of_the_agent(self, yes: bool) -> None:
        self.world.fill_disk(yes)

    @precondition(lambda self: self.wall is not None)
    @rule(seconds=st.sampled_from([-7200, -5, 5, 7200]))
    def set_the_clock(self, seconds: int) -> None:
        assert self.wall is not None
        self.wall.jump(seconds)

    def teardown(self) -> None:
        try:
            self.world.settle()
            self.world.check()
        finally:
            self.world.close()
            if self.wall is not None:
                self._place.cleanup()


def examine(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Chaos,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=examples < 10,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(300)
def test_random_sequences_of_kills_restarts_wedges_and_full_disks() -> None:
    examine(4, 12)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_random_sequences() -> None:
    examine(150, 30)
