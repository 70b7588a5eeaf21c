"""Checkpoints, evaluations and compilations are no idle GPU and no busy host."""

from __future__ import annotations

import pytest

from rankscope.agent.model import Incomplete, Verdict
from rankscope.agent.rules.host_bottleneck import HostBottleneck
from rankscope.agent.rules.low_gpu_utilization import LowGpuUtilization
from tests.agent.rules.machine import GPU, Key, Machine, findings

USE: Key = ("gpu_utilization_ratio", *GPU)


def train(machine: Machine, seconds: int, use: float, cpu: float = 0.1, steps: int = 1) -> Machine:
    """Let time pass with this use of the GPU and of eight CPU cores."""
    for _ in range(seconds):
        spent = {
            ("system_cpu_seconds_total", mode): machine.node.latest("system_cpu_seconds_total").get((mode,), 0.0)
            for mode in ("user", "idle")
        }
        spent["system_cpu_seconds_total", "user"] += 8 * cpu
        spent["system_cpu_seconds_total", "idle"] += 8 * (1 - cpu)
        machine.live(1, lambda _: {USE: use, **spent}, steps_per_second=steps)  # noqa: B023
    return machine


def low(machine: Machine) -> Verdict:
    return LowGpuUtilization().check(machine.node, machine.run, machine.now)


def host(machine: Machine) -> Verdict:
    return HostBottleneck().check(machine.node, machine.run, machine.now)


def test_a_checkpoint_of_a_minute_is_silent_while_it_lasts_and_after() -> None:
    machine = train(Machine(), 200, 0.95)
    for _ in range(70):
        train(machine, 1, 0.0, cpu=0.99, steps=0)
        assert low(machine) == ()
    for _ in range(130):
        train(machine, 1, 0.95)
        assert low(machine) == ()


def test_a_gpu_that_idles_between_checkpoints_is_found_all_the_same() -> None:
    machine = train(train(train(Machine(), 200, 0.2), 40, 0.0, steps=0), 60, 0.2)
    (finding,) = findings(low(machine))
    assert finding.value == pytest.approx(0.2)


def test_all_cores_may_compile_before_the_first_step_and_later() -> None:
    machine = train(Machine(), 120, 0.0, cpu=0.99, steps=0)
    for _ in range(50):
        train(machine, 1, 0.95)
        assert isinstance(host(machine), Incomplete)
    train(machine, 100, 0.95)
    for seconds, use, cpu, steps in ((70, 0.0, 0.99, 0), (90, 0.95, 0.1, 1)):
        for _ in range(seconds):
            train(machine, 1, use, cpu, steps)
            assert host(machine) == ()
    train(machine, 70, 0.3, cpu=0.99)
    assert len(findings(host(machine))) == 1
