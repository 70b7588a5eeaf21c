"""LowGpuUtilization: idle GPUs of a run that makes steps, sampled or logged."""

from __future__ import annotations

import numpy as np
import pytest

from rankscope.agent.model import Batch, Block, Column, Incomplete, Metric, RankInfo, RankKey, Sample, Verdict
from rankscope.agent.reports.recorded import check_rule, fired_by, rows_of
from rankscope.agent.rules.low_gpu_utilization import LowGpuUtilization
from rankscope.agent.runs.state import Node
from tests.agent.rules.machine import GPU, Machine, findings

UTILIZATION = Metric("gpu_utilization_ratio", "gauge", "", ("gpu", "uuid"))
INFO = Metric("gpu_info", "info", "", ("gpu", "uuid"))
LABELS = ("0", "GPU-a")


def node_with(utilization: float, seconds: int, step_seconds: float = 1.0) -> Node:
    """A node whose only GPU is sampled each second while rank 0 makes steps."""
    node = Node("n")
    rank = node.attach(RankInfo(RankKey("p", "r", 0), 1, "id", device_uuids=("GPU-a",)), 0.0)
    for second in range(seconds):
        node.observe("gpu", [Sample(INFO, 1.0, LABELS), Sample(UTILIZATION, utilization, LABELS)], float(second))
        if second % step_seconds == 0:
            block = Block((), np.array([second]), np.array([float(second)]), np.empty((1, 0)))
            rank.apply(Batch(0, 0, (block,)), float(second))
    return node


def judge(node: Node, now: float) -> Verdict:
    return LowGpuUtilization().check(node, node.runs["p", "r"], now)


def test_an_idle_gpu_of_a_training_rank_is_found_by_name() -> None:
    verdict = judge(node_with(0.2, 200), 200.0)
    assert isinstance(verdict, tuple)
    assert [(f.gpu, f.rank, round(f.value or 0, 2)) for f in verdict] == [("0", 0, 0.2)]


def test_a_busy_gpu_is_silent() -> None:
    assert judge(node_with(0.9, 200), 200.0) == ()


def test_is_incomplete_until_the_window_is_full() -> None:
    assert isinstance(judge(node_with(0.0, 100), 100.0), Incomplete)


def test_a_run_that_makes_no_steps_is_another_rules_matter() -> None:
    node = node_with(0.9, 200)
    for second in range(200, 400):
        node.observe("gpu", [Sample(INFO, 1.0, LABELS), Sample(UTILIZATION, 0.0, LABELS)], float(second))
    assert judge(node, 400.0) == ()


def test_a_run_on_a_node_without_gpu_values_is_incomplete() -> None:
    replay = fired_by(LowGpuUtilization(), rows_of({"loss": [1.0] * 300}))
    assert replay.lacking == {"LowGpuUtilization": "the utilisation of this rank's GPU is not known"}


def test_logged_percentages_count_over_steps() -> None:
    busy = [90.0] * 300 + [20.0] * 200 + [90.0] * 300
    (found,) = check_rule(LowGpuUtilization, rows_of({"gpu_util": busy}))
    assert found.step is not None
    assert 350 <= found.step <= 365


def test_a_short_pause_is_silent() -> None:
    assert not check_rule(LowGpuUtilization, rows_of({"gpu_util": [0.9] * 200 + [0.0] * 30 + [0.9] * 200}))


def test_names_the_loader_when_the_steps_wait_for_data() -> None:
    n = 200
    metrics = {"gpu_util": [20.0] * n, "data_s": [0.8] * n, "step_s": [1.0] * n, "forward_s": [0.1] * n}
    (found,) = check_rule(LowGpuUtilization, rows_of(metrics), {"num_workers": 0, "pin_memory": False})
    assert found.causes[0].cause == "data loading is too slow"
    assert "80%" in found.causes[0].evidence
    assert "num_workers above 0" in found.causes[0].fix
    assert "pin_memory=True" in found.causes[0].fix


@pytest.mark.parametrize(
    ("phase", "cause"), [("comm", "communication between the ranks"), ("checkpoint", "checkpoints")]
)
def test_names_what_the_steps_are_spent_on_beside_data_and_compute(phase: str, cause: str) -> None:
    node = node_with(0.2, 200)
    memory = [
        Sample(Metric(f"gpu_memory_{what}_bytes", "gauge", "", ("gpu", "uuid")), value, LABELS)
        for what, value in (("used", 2e9), ("size", 80e9))
    ]
    node.observe("memory", memory, 199.0)
    columns = (Column("forward", "phase"), Column("backward", "phase"), Column(phase, "phase"))
    step, seconds = np.arange(200, 260), np.tile([0.1, 0.2, 0.7], (60, 1))
    node.runs["p", "r"].ranks[0].apply(Batch(0, 0, (Block(columns, step, step.astype(np.float64), seconds),)), 200.0)
    verdict = judge(node, 200.0)
    assert isinstance(verdict, tuple)
    assert [each.cause for each in verdict[0].causes] == [cause]
    assert "70%" in verdict[0].causes[0].evidence


@pytest.mark.parametrize(
    ("phases", "held", "hot", "causes"),
    [
        ({"data": 0.7, "forward": 0.1, "backward": 0.2}, 70e9, 0.0, ["data loading is too slow"]),
        ({"data": 0.02, "forward": 0.4, "backward": 0.55}, 9e9, 0.0, ["the batch is too small for the GPU"]),
        ({"data": 0.02, "forward": 0.1, "backward": 0.2}, 9e9, 0.0, ["work on the host between the steps"]),
        ({"forward": 0.1, "backward": 0.2, "comm": 0.65}, 9e9, 0.0, ["communication between the ranks"]),
        ({"data": 0.02, "forward": 0.4, "backward": 0.55}, 70e9, 1.0, ["GPU 0 is throttled because it is too hot"]),
        ({"data": 0.02, "forward": 0.4, "backward": 0.55}, 70e9, 0.0, []),
    ],
    ids=["starved", "small batch", "host-bound", "communicating", "throttled", "unknown"],
)
def test_an_idle_gpu_is_told_with_its_cause(
    phases: dict[str, float], held: float, hot: float, causes: list[str]
) -> None:
    """Each from a step of one second; where nothing speaks for a cause none is made up."""
    machine = Machine()
    columns, seconds = tuple(Column(name, "phase") for name in phases), np.array([list(phases.values())])
    values = {
        ("gpu_utilization_ratio", *GPU): 0.2,
        ("gpu_memory_used_bytes", *GPU): held,
        ("gpu_memory_size_bytes", *GPU): 80e9,
        ("gpu_throttle_active", *GPU, "hw_thermal"): hot,
        ("gpu_throttle_active", *GPU, "sw_power_cap"): 1.0,
    }
    for step in range(200):
        machine.live(1, lambda _: values)
        block = Block(columns, np.array([step]), np.array([machine.now]), seconds)
        machine.rank.apply(Batch(0, 0, (block,)), machine.now)
    (finding,) = findings(LowGpuUtilization().check(machine.node, machine.run, machine.now))
    assert [each.cause for each in finding.causes] == causes


def test_a_mig_instance_is_judged_by_its_own_activity() -> None:
    """The whole card tells none; the summary names the card that the instance is on."""
    for busy, expected in ((0.2, ["the batch is too small for the GPU"]), (0.9, [])):
        machine = Machine()
        own = {("mig_engine_active_ratio", *GPU): busy}
        memory = {("mig_memory_used_bytes", *GPU): 2e9, ("mig_memory_size_bytes", *GPU): 1e10}
        machine.live(200, lambda _, own=own, memory=memory: {**own, **memory}, steps_per_second=1)  # type: ignore[misc]
        verdict = LowGpuUtilization().check(machine.node, machine.run, machine.now)
        assert isinstance(verdict, tuple)
        assert [each.causes[0].cause for each in verdict] == expected
