"""The clock: what jumps is noticed, counted and said once, and everything that was noted moves with it."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace

import numpy as np
import pytest

from rankscope.agent.model import (
    Batch,
    Block,
    Column,
    End,
    Expect,
    FloatArray,
    Goodbye,
    Heartbeat,
    Incomplete,
    Metric,
    RankInfo,
    RankKey,
    Sample,
)
from rankscope.agent.rules.throughput_drop import ThroughputDrop
from rankscope.agent.rules.training_stalled import TrainingStalled
from rankscope.agent.runs.clock import QUIET, Clock, Dated, Reading, read
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node

NOW = 1_790_000_000.0
HOUR = 3600.0


class Machine:
    """A machine whose clocks the test moves."""

    def __init__(self) -> None:
        self.wall, self.monotonic, self.slept = NOW, 1000.0, 0.0
        self.held_up = False
        self.clock = Clock(self.read)

    def read(self) -> Reading | None:
        return None if self.held_up else Reading(self.wall, self.monotonic, self.slept)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_clock_that_goes_as_time_does_has_not_jumped(machine: Machine) -> None:
    machine.wait(86400)
    assert machine.clock.look() == 0.0
    assert machine.clock.jumps == {"forward": 0, "back": 0}


@pytest.mark.parametrize("jump", [-HOUR, -2.0, 2.0, HOUR])
def test_a_jump_is_measured_and_counted(machine: Machine, jump: float) -> None:
    machine.wait(0.1)
    machine.wall += jump
    assert machine.clock.look() == pytest.approx(jump)
    assert machine.clock.look() == 0.0
    assert machine.clock.jumps == {"forward": int(jump > 0), "back": int(jump < 0)}


def test_small_corrections_are_none_however_many(machine: Machine) -> None:
    for _ in range(1000):
        machine.wait(0.1)
        machine.wall -= 0.4
        assert machine.clock.look() == 0.0
    assert machine.clock.jumps["back"] == 0


def test_the_time_that_a_machine_was_suspended_counts_for_nothing_and_is_no_jump(machine: Machine) -> None:
    machine.wall += HOUR
    machine.slept += HOUR
    assert machine.clock.look() == pytest.approx(HOUR)
    assert machine.clock.jumps == {"forward": 0, "back": 0}
    machine.wall += 3 * HOUR  # suspended once more, and set on waking up
    machine.slept += HOUR
    assert machine.clock.look() == pytest.approx(3 * HOUR)
    assert machine.clock.jumps["forward"] == 1


def test_a_process_that_was_held_up_while_it_looked_has_seen_no_jump(machine: Machine) -> None:
    machine.held_up = True
    machine.wall += HOUR
    assert machine.clock.look() == 0.0
    machine.held_up = False
    assert machine.clock.look() == pytest.approx(HOUR)


def test_of_several_jumps_one_is_said_until_it_was_quiet(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for jump in (HOUR, -HOUR, HOUR):
            machine.wait(QUIET / 2)
            machine.wall += jump
            machine.clock.look()
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["the clock jumped by +3600 s"]
        machine.wait(QUIET)
        machine.wall -= HOUR
        machine.clock.look()
    assert [record.getMessage().partition(":")[0] for record in caplog.records][1:] == ["the clock jumped by -3600 s"]
    assert machine.clock.jumps == {"forward": 2, "back": 2}


def test_between_two_looks_time_goes_evenly(machine: Machine) -> None:
    machine.monotonic = time.monotonic()
    machine.clock.look()
    before = machine.clock.now()
    machine.wall += HOUR
    assert before <= machine.clock.now() < before + 60
    machine.clock.look()
    assert machine.clock.now() >= before + HOUR


def test_this_machine_can_be_read() -> None:
    found = read()
    assert found is not None
    assert abs(found.wall - time.time()) < 60
    assert abs(found.monotonic - time.monotonic()) < 60
    assert found.slept > -1


def test_what_holds_times_says_so(machine: Machine) -> None:
    assert isinstance(Node("node-1", clock=machine.clock), Dated)


# --- ranks and windows ------------------------------------------------------------------------------------------------

WATTS = Metric("gpu_power_watts", "gauge", "Power.", ("gpu",))


def offset(machine: Machine) -> float:
    """What the sender of a rank adds to CLOCK_MONOTONIC."""
    return machine.wall - machine.monotonic


def steps(first: int, count: int, now: float, by: float | None, seconds: float = 1.0) -> Batch:
    """Return a batch of steps of so many seconds, the last of which ended at `now` by the clock of the batch."""
    step = np.arange(first, first + count)
    at: FloatArray = now - seconds * np.arange(count - 1, -1, -1.0)
    return Batch(1, count, (Block((Column("loss"),), step, at, np.ones((count, 1))),), offset=by)


@pytest.fixture
def node(machine: Machine) -> Node:
    return Node("node-1", clock=machine.clock)


@pytest.fixture
def rank(node: Node) -> Rank:
    return node.attach(RankInfo(RankKey("p", "r", 0), 1, "id", started=NOW), NOW)


def test_what_was_so_long_ago_still_is(machine: Machine, node: Node, rank: Rank) -> None:
    rank.beat(Heartbeat(machine.wall, offset=offset(machine)), machine.wall)
    rank.apply(steps(0, 10, machine.wall, offset(machine)), machine.wall)
    rank.apply(Batch(2, 2, (), (Expect(9, machine.wall, 600.0), Goodbye(9, machine.wall, End.FINISHED))), machine.wall)
    node.observe("gpu", [Sample(WATTS, 300.0, ("0",))], machine.wall)
    node.shift(-HOUR)
    then = NOW - HOUR
    assert (rank.last_step_time, rank.last_seen, rank.expect_until) == (then, then, then + 600)
    assert rank.goodbye is not None
    assert rank.goodbye.time == then
    assert node.runs["p", "r"].started == rank.info.started == then
    rank.attach(replace(rank.info, started=NOW), machine.wall)
    assert rank.info.started == then, "another stream of the session says again what it knows"
    assert node.sampled == {"gpu": then}
    window = node.window("gpu_power_watts", "0")
    assert window is not None
    assert window.time.tolist() == [then]
    for series in (rank.series["loss"], rank.step_seconds):
        assert series.time[-1] == then
        assert np.diff(series.time).tolist() == [1.0] * (len(series) - 1)


def test_a_rank_without_steps_has_no_time_of_one(machine: Machine, node: Node, rank: Rank) -> None:
    rank.beat(Heartbeat(machine.wall, offset=offset(machine)), machine.wall)
    node.shift(HOUR)
    assert rank.last_step_time == 0.0


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
@pytest.mark.parametrize("first", ["rank", "agent"])
def test_whoever_notices_first_steps_last_as_long_as_they_did(
    machine: Machine, node: Node, rank: Rank, first: str, jump: float
) -> None:
    """A batch is dated by the sender's clock when it was sent; the agent may know better, or not yet."""
    rank.apply(steps(0, 10, machine.wall, offset(machine)), machine.wall)
    machine.wait(10)
    before, moved = offset(machine), offset(machine) + jump
    machine.wall += jump
    now = machine.wall
    if first == "agent":
        node.shift(machine.clock.look())
        rank.apply(steps(10, 10, now - jump, before), now)
    else:
        rank.apply(steps(10, 10, now, moved), now - jump)
        node.shift(machine.clock.look())
    machine.wait(10)
    rank.apply(steps(20, 10, machine.wall, offset(machine)), machine.wall)
    assert rank.last_step_time == pytest.approx(machine.wall)
    assert rank.lag == pytest.approx(0.0, abs=1e-3)
    assert rank.step_seconds.value.tolist() == pytest.approx([1.0] * 29)
    assert np.diff(rank.series["loss"].time).tolist() == pytest.approx([1.0] * 29)


def test_the_clock_of_another_machine_is_its_own(machine: Machine, node: Node, rank: Rank) -> None:
    """A jump here moves nothing that was dated there, and a jump there moves all of it."""
    theirs = offset(machine) + 500_000.0
    rank.apply(steps(0, 10, NOW, theirs), NOW)
    node.shift(HOUR)
    assert rank.last_step_time == NOW
    assert rank.last_seen == NOW + HOUR
    rank.apply(steps(10, 10, NOW + 10 - HOUR, theirs - HOUR), NOW)
    assert rank.last_step_time == NOW + 10 - HOUR
    assert rank.step_seconds.value.tolist() == pytest.approx([1.0] * 19)


@pytest.mark.parametrize("jump", [-HOUR, HOUR, 100 * 24 * HOUR])
def test_no_rule_takes_a_jump_for_time_that_passed(machine: Machine, node: Node, rank: Rank, jump: float) -> None:
    stalled, run = TrainingStalled(), node.runs["p", "r"]
    rank.apply(steps(0, 600, machine.wall, offset(machine)), machine.wall)
    machine.wait(20)
    machine.wall += jump
    node.shift(machine.clock.look())
    assert stalled.check(node, run, machine.wall) == ()
    assert rank.state(machine.wall) == "running"
    machine.wait(50)
    [finding] = _findings(stalled.check(node, run, machine.wall))
    assert finding == pytest.approx(70.0), "and one that stalls is found as soon as ever"


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_slow_stretch_must_last_as_long_as_ever(machine: Machine, node: Node, rank: Rank, jump: float) -> None:
    rule, run = ThroughputDrop(), node.runs["p", "r"]

    def go(first: int, count: int, seconds: float) -> None:
        machine.wait(count * seconds)
        rank.apply(steps(first, count, machine.wall, offset(machine), seconds), machine.wall)

    go(0, 1000, 1.0)
    rule.check(node, run, machine.wall)
    machine.wall += jump
    node.shift(machine.clock.look())
    go(1000, 60, 2.5)  # 150 s, where a drop must last for 300
    assert rule.check(node, run, machine.wall) == ()
    go(1060, 80, 2.5)
    assert len(_findings(rule.check(node, run, machine.wall))) == 1


def _findings(verdict: object) -> list[float]:
    assert isinstance(verdict, tuple), verdict.reason if isinstance(verdict, Incomplete) else verdict
    return [finding.value if finding.value is not None else math.nan for finding in verdict]
