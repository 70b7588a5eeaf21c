"""When a fault was is told by the clock as it is now, however it was set since."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from rankscope.agent.rules.gpu_hardware_error import GpuHardwareError
from rankscope.agent.runs.clock import Clock, Reading
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers.gpu import Gpu
from rankscope.agent.samplers.process import Process
from tests.agent.samplers.conftest import Driver, Root, attach, values
from tests.agent.samplers.test_process import KILL
from tests.nvml import build
from tests.waiting import wait_for

pytestmark = pytest.mark.parametrize("jump", [-7200.0, 7200.0])


class Wall:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.moved = 0.0
        self.clock = Clock(lambda: Reading(time.time() + self.moved, time.monotonic()))

    def jump(self, node: Node, seconds: float) -> None:
        self.moved += seconds
        node.shift(self.clock.look())


def test_an_xid_counts_for_as_long_as_ever(driver: Driver, gpu: Callable[..., Gpu], jump: float) -> None:
    wall, rule = Wall(), GpuHardwareError()
    node = Node("node-1", clock=wall.clock)
    driver.load(build.scenario("h100"))
    sampler, found = gpu(), dict[tuple[str, ...], float]()

    def look() -> bool:
        samples = tuple(sampler.sample(node))
        node.observe("gpu", samples, node.clock.now())
        found.update(values(samples))
        return ("gpu_xid_last_timestamp_seconds", "0", "79") in found

    def findings() -> list[str]:
        verdict = rule.check(node, None, node.clock.now())
        assert isinstance(verdict, tuple)
        return [finding.labels.get("xid", "") for finding in verdict]

    assert not look()
    driver.load(build.scenario("h100") + "xid 79\n")
    wait_for(look)
    before = found["gpu_xid_last_timestamp_seconds", "0", "79"]
    assert "79" in findings()
    wall.jump(node, jump)
    look()
    assert found["gpu_xid_last_timestamp_seconds", "0", "79"] == pytest.approx(before + jump, abs=1)
    assert "79" in findings()


def test_a_kill_for_lack_of_memory_stays_where_it_was(root: Root, jump: float) -> None:
    wall = Wall()
    node = Node("node-1", clock=wall.clock)
    root.process(100)
    attach(node, 100)
    root.write({"dev/kmsg": ""})
    sampler, key = Process(root=str(root)), ("rank_oom_kill_timestamp_seconds", "exp-1", "0")
    list(sampler.sample(node))
    with (root.path / "dev/kmsg").open("a") as log:
        log.write(KILL.format(usec=int(time.monotonic() * 1e6), pid=100))
    os.rename(root.path / "proc/100", root.path / "proc/gone")
    before = values(sampler.sample(node))[key]
    wall.jump(node, jump)
    assert values(sampler.sample(node))[key] == pytest.approx(before + jump, abs=1)
