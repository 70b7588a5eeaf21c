"""A run that logs each tenth step, or evaluates each hundredth: its phases are judged by the step all the same."""

from __future__ import annotations

import numpy as np
import pytest

from rankscope.agent.model import Batch, Block, Column, RankInfo, RankKey
from rankscope.agent.rules._phases import phases_of
from rankscope.agent.rules.data_loader_bottleneck import DataLoaderBottleneck
from rankscope.agent.runs.state import Node, Run
from rankscope.agent.samplers._nvml.states import phase_share

EVERY = 10  # steps


def run_of(data: float, rows: int = 60) -> tuple[Node, Run]:
    """A run whose steps take 1 s, `data` of it waiting; what is timed adds up until a row is logged."""
    node = Node("n")
    rank = node.attach(RankInfo(RankKey("p", "r", 0), 1, "id"), 0.0)
    step = np.arange(1, rows + 1) * EVERY
    columns = (Column("data", "phase"), Column("forward", "phase"))
    seconds = np.tile([data * EVERY, 0.2 * EVERY], (rows, 1))
    rank.apply(Batch(0, 0, (Block(columns, step, step.astype(np.float64), seconds),)), rows * EVERY)
    return node, node.runs["p", "r"]


@pytest.mark.parametrize(("data", "expected"), [(0.05, 0), (0.7, 1)])
def test_the_wait_of_ten_steps_is_no_wait_of_one(data: float, expected: int) -> None:
    node, run = run_of(data)
    verdict = DataLoaderBottleneck().check(node, run, 600.0)
    assert isinstance(verdict, tuple)
    assert len(verdict) == expected
    phases = phases_of(run.ranks[0])
    assert phases is not None
    assert phases.share("data") == pytest.approx(data)
    assert phase_share(run.ranks[0], "data") == pytest.approx(data)


def test_a_checkpoint_that_is_in_few_rows_hides_no_wait() -> None:
    """Seven checkpoints of a minute each are no part of the last eight steps."""
    node = Node("n")
    rank = node.attach(RankInfo(RankKey("p", "r", 0), 1, "id"), 0.0)
    now = 0.0
    for step in range(720):
        saves = step % 100 == 99
        now += 61.0 if saves else 1.0
        columns = (Column("data", "phase"), *((Column("checkpoint", "phase"),) if saves else ()))
        seconds = np.array([[0.6, *((60.0,) if saves else ())]])
        rank.apply(Batch(0, 0, (Block(columns, np.array([step]), np.array([now]), seconds),)), now)
    assert phase_share(rank, "data") == pytest.approx(0.6)
    phases = phases_of(rank)
    assert phases is not None
    assert phases.share("checkpoint") == pytest.approx(0.6)
