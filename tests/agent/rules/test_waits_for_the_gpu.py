"""A loader that copies batches to the GPU waits for the GPU: no wait for data."""

from __future__ import annotations

import numpy as np
import pytest

from rankscope.agent.model import Batch, Block, Column
from rankscope.agent.rules.data_loader_bottleneck import DataLoaderBottleneck
from tests.agent.rules.machine import GPU, Machine, findings


@pytest.mark.parametrize(("busy", "expected"), [(0.98, 0), (0.4, 1), (None, 1)])
def test_who_waits_for_data_has_an_idle_gpu(busy: float | None, expected: int) -> None:
    machine, rule = Machine(), DataLoaderBottleneck()
    columns = (Column("data", "phase"), Column("forward", "phase"))
    for step in range(120):
        machine.live(1, lambda _: {("gpu_utilization_ratio", *GPU): busy} if busy is not None else {})
        seconds = np.array([[0.8, 0.2]])
        block = Block(columns, np.array([step]), np.array([machine.now]), seconds)
        machine.rank.apply(Batch(0, 0, (block,)), machine.now)
        rule.check(machine.node, machine.run, machine.now)
    assert len(findings(rule.check(machine.node, machine.run, machine.now))) == expected
