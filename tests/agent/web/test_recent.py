"""What was lately, in few numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rankscope.agent.model import Batch, Block, Column, Metric, Sample
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node
from rankscope.agent.web.recent import SECONDS, STRETCHES, gpu_states, loss_curve, phase_shares
from rankscope.agent.web.snapshot import gpus, rank_json

if TYPE_CHECKING:
    from .conftest import Agent

NOW = 1_790_000_000.0
STATES = Metric("gpu_state_seconds_total", "counter", "Time by state.", ("gpu", "uuid", "state"), "seconds")


def series(values: list[float]) -> Series:
    made = Series("loss")
    made.extend(np.arange(len(values)), np.arange(float(len(values))), np.array(values, float))
    return made


def test_a_short_curve_is_told_as_it_is() -> None:
    assert loss_curve(series([3.0, 2.0, 1.5])) == [3.0, 2.0, 1.5]
    assert loss_curve(Series("loss")) == []


def test_a_long_curve_is_told_in_means_oldest_first() -> None:
    told = loss_curve(series([float(i // 50) for i in range(50 * STRETCHES)]))
    assert told == [float(i) for i in range(STRETCHES)]


def test_a_single_nan_is_in_the_mean_of_its_stretch_and_in_no_other() -> None:
    values = [1.0] * 1000
    values[500] = math.nan
    told = loss_curve(series(values))
    assert len(told) == STRETCHES
    assert [i for i, value in enumerate(told) if math.isnan(value)] == [16]


def phased(agent: Agent, seconds: list[dict[str, float]], step_seconds: float) -> dict[str, float]:
    """Return the shares of a rank whose steps took so long, with these phases in each."""
    rank = agent.attach()
    names = list(seconds[0])
    columns = tuple(Column(name, kind="phase") for name in names)
    n = len(seconds)
    steps, times = np.arange(n), np.array([NOW + step_seconds * (i + 1) for i in range(n)], float)
    values = np.array([[each[name] for name in names] for each in seconds])
    rank.apply(Batch(1, n, (Block(columns, steps, times, values),)), NOW + step_seconds * n)
    return phase_shares(rank, 50)


def test_phase_shares_are_those_of_the_newest_steps(agent: Agent) -> None:
    """A loader that became slow an hour ago is seen, however long the run has been well."""
    told = phased(agent, [{"data": 0.0, "forward": 0.2}] * 500 + [{"data": 0.15, "forward": 0.05}] * 60, 0.2)
    assert told == pytest.approx({"data": 0.75, "forward": 0.25}, abs=0.02)


def test_what_a_rank_does_not_time_is_left_over(agent: Agent) -> None:
    told = phased(agent, [{"forward": 0.1, "backward": 0.2}] * 100, 1.0)
    assert told == pytest.approx({"forward": 0.1, "backward": 0.2}, abs=0.01)


def test_phases_that_overlap_do_not_fill_more_than_the_step(agent: Agent) -> None:
    told = phased(agent, [{"forward": 3.0, "backward": 1.0}] * 100, 1.0)
    assert told == pytest.approx({"forward": 0.75, "backward": 0.25})


def test_without_a_step_no_share_is_told(agent: Agent) -> None:
    assert phase_shares(agent.attach(), 50) == {}


def test_gpu_states_are_those_of_the_last_seconds(agent: Agent) -> None:
    totals = {"working": 0.0, "starved": 0.0, "dead": 0.0}
    agent.gpus(1)
    for second in range(60):
        totals["working" if second < 55 else "starved"] += 1.0
        samples = [Sample(STATES, seconds, ("0", "GPU-0", state)) for state, seconds in totals.items()]
        agent.node.observe("states", samples, NOW + second)
    told = {"working": 1 - 5 / SECONDS, "starved": 5 / SECONDS}
    assert gpu_states(agent.node) == {"GPU-0": pytest.approx(told)}
    [gpu] = gpus(agent.node)
    assert gpu["states"] == pytest.approx(told)


def test_of_a_gpu_that_was_seen_once_no_state_is_told() -> None:
    node = Node("host-a")
    node.observe("gpu", [Sample(STATES, 5.0, ("0", "GPU-0", "working"))], NOW)
    assert gpu_states(node) == {}


def test_a_rank_says_when_it_was_heard_and_whether_it_is_connected(agent: Agent) -> None:
    rank = agent.attach()
    agent.log(rank, [2.0, math.nan])
    told = rank_json(rank, Devices(agent.node), agent.now)
    assert (told["connected"], told["last_seen"]) == (True, NOW)
    assert str(told["loss_curve"]) == "[2.0, nan]"
    rank.connected = False
    assert rank_json(rank, Devices(agent.node), agent.now)["connected"] is False
