"""TrainingStalled, DataLoaderBottleneck, Straggler, ThroughputDrop, HostBottleneck: the run against the clock."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rankscope.agent.component import Rule
from rankscope.agent.model import (
    Batch,
    Block,
    Column,
    Expect,
    Finding,
    Heartbeat,
    Incomplete,
    Metric,
    RankInfo,
    RankKey,
    Sample,
)
from rankscope.agent.reports.recorded import START, check_rule, findings, fired_by, rows_of
from rankscope.agent.reports.replay import Replay
from rankscope.agent.reports.rows import Row
from rankscope.agent.rules._causes import slow
from rankscope.agent.rules._causes.around import Around
from rankscope.agent.rules.data_loader_bottleneck import DataLoaderBottleneck
from rankscope.agent.rules.host_bottleneck import HostBottleneck
from rankscope.agent.rules.straggler import Straggler
from rankscope.agent.rules.throughput_drop import ThroughputDrop
from rankscope.agent.rules.training_stalled import TrainingStalled
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node
from tests.agent.rules.machine import Machine


def told(rule: Rule, rows: list[Row]) -> list[Finding]:
    """What fires while rows are read as a log is."""
    return findings(list(Replay([(type(rule).__name__, rule)], "run").feed(rows)))


def training(steps: int = 100, seconds: float = 1.0, ranks: int = 1, world: int = 0) -> tuple[Node, list[Rank]]:
    node = Node("n")
    world = world or ranks
    found = [node.attach(RankInfo(RankKey("p", "r", i), 1, "id", world_size=world), 0.0) for i in range(ranks)]
    step = np.arange(steps)
    for rank in found:
        rank.apply(
            Batch(0, 0, (Block((), step, step.astype(np.float64) * seconds, np.empty((steps, 0))),)), steps * seconds
        )
    return node, found


class TestTrainingStalled:
    def stalled(self, node: Node, now: float) -> list[int | None]:
        for _, rank in node.ranks():
            rank.last_seen = now
        verdict = TrainingStalled().check(node, node.runs["p", "r"], now)
        return [] if isinstance(verdict, Incomplete) else [finding.rank for finding in verdict]

    def test_a_minute_without_a_step_is_found_where_steps_take_a_second(self) -> None:
        node, _ = training()
        assert self.stalled(node, 99 + 55) == []
        assert self.stalled(node, 99 + 65) == [0]

    def test_slow_steps_are_given_five_times_their_time(self) -> None:
        node, _ = training(20, seconds=60)
        assert self.stalled(node, 19 * 60 + 290) == []
        assert self.stalled(node, 19 * 60 + 310) == [0]

    def test_what_was_announced_is_waited_for(self) -> None:
        node, (rank,) = training()
        rank.apply(Batch(0, 0, (), (Expect(99, 99.0, 600.0),)), 99.0)
        assert self.stalled(node, 600) == []
        assert self.stalled(node, 800) == [0]

    def test_an_evaluation_is_given_half_an_hour(self) -> None:
        node, (rank,) = training()
        rank.beat(Heartbeat(150.0, 99, "eval"), 150.0)
        assert self.stalled(node, 99 + 1000) == []
        assert self.stalled(node, 99 + 2000) == [0]

    def test_the_first_step_is_given_twenty_minutes(self) -> None:
        node, _ = training(1)
        assert self.stalled(node, 1000) == []
        assert self.stalled(node, 1300) == [0]

    def test_names_the_rank_that_is_behind(self) -> None:
        node, ranks = training(ranks=4)
        for rank in ranks[:3]:
            rank.apply(Batch(0, 0, (Block((), np.array([100]), np.array([100.0]), np.empty((1, 0))),)), 100.0)
        verdict = TrainingStalled().check(node, node.runs["p", "r"], 200.0)
        assert isinstance(verdict, tuple)
        assert any("rank 3 stands at step 99" in cause.evidence for cause in verdict[0].causes)

    @pytest.mark.parametrize(("phases", "behind"), [(["backward", "forward"], 1), (["data", *["backward"] * 3], 0)])
    def test_names_the_rank_that_is_behind_within_the_step(self, phases: list[str], behind: int) -> None:
        node, ranks = training(ranks=len(phases))
        for rank, phase in zip(ranks, phases, strict=True):
            rank.beat(Heartbeat(150.0, 99, phase), 150.0)
        verdict = TrainingStalled().check(node, node.runs["p", "r"], 200.0)
        assert isinstance(verdict, tuple)
        assert [finding.rank for finding in verdict] == list(range(len(phases)))
        for finding in verdict:
            assert finding.causes[0].cause == "the others wait for one rank"
            assert finding.causes[0].evidence.startswith(f"rank {behind} did not get beyond {phases[behind]}")
            stuck = [cause.cause for cause in finding.causes if "stuck in" in cause.cause]
            assert stuck == ([f"the rank is stuck in {phases[behind]}"] if finding.rank == behind else [])

    def test_nobody_is_behind_where_all_stand_in_the_same_phase(self) -> None:
        node, ranks = training(ranks=4)
        for rank in ranks:
            rank.beat(Heartbeat(150.0, 99, "backward"), 150.0)
        verdict = TrainingStalled().check(node, node.runs["p", "r"], 200.0)
        assert isinstance(verdict, tuple)
        assert verdict[0].causes[0].cause == "the rank is stuck in backward"

    def test_a_checkpoint_of_one_rank_is_waited_for_by_all(self) -> None:
        node, ranks = training(ranks=4)
        ranks[0].beat(Heartbeat(150.0, 99, "checkpoint"), 150.0)
        assert self.stalled(node, 99 + 1000) == []
        assert self.stalled(node, 99 + 2000) == [0, 1, 2, 3]

    def test_a_checkpoint_of_a_rank_that_is_not_heard_here_is_given_five_minutes(self) -> None:
        node, ranks = training(ranks=2, world=4)
        for rank in ranks:
            rank.beat(Heartbeat(150.0, 99, "backward"), 150.0)
        assert self.stalled(node, 99 + 280) == []
        verdict = TrainingStalled().check(node, node.runs["p", "r"], 99 + 320)
        assert isinstance(verdict, tuple)
        assert [finding.rank for finding in verdict] == [0, 1]
        assert verdict[0].summary == "no step for 5 min: the longest before took 1 s"
        assert verdict[0].causes[0].cause == "a rank on another node holds this one up"
        assert verdict[0].causes[0].evidence.startswith("2 of 4 ranks are on this node")

    def test_a_rank_that_is_behind_here_is_not_looked_for_elsewhere(self) -> None:
        node, ranks = training(ranks=2, world=4)
        for rank, phase in zip(ranks, ("forward", "backward"), strict=True):
            rank.beat(Heartbeat(150.0, 99, phase), 150.0)
        assert self.stalled(node, 99 + 65) == [0, 1]

    def test_a_gap_in_a_log_is_a_stall_unless_steps_went_on(self) -> None:
        before = rows_of({"loss": [1.0] * 50})
        stalled: Row = (0, 50, START + 49 + 900, {"loss": 1.0}, False)
        sparse: Row = (0, 949, START + 49 + 900, {"loss": 1.0}, False)
        assert [f.step for f in told(TrainingStalled(), [*before, stalled])] == [49]
        assert not told(TrainingStalled(), [*before, sparse])

    def test_heartbeats_show_a_stall_that_never_ends(self) -> None:
        beats: list[Row] = [(0, 49, START + 49 + 30 * i, {}, True) for i in range(1, 10)]
        assert [f.step for f in told(TrainingStalled(), [*rows_of({"loss": [1.0] * 50}), *beats])] == [49]

    def test_a_log_without_a_clock_cannot_tell(self) -> None:
        replay = fired_by(TrainingStalled(), rows_of({"loss": [1.0] * 50}, seconds=None))
        assert replay.lacking == {"TrainingStalled": "the record has no clock"}


class TestDataLoaderBottleneck:
    def test_steps_that_wait_for_data_are_found_with_what_to_do(self) -> None:
        wait = np.where(np.arange(300) < 100, 0.05, 0.8)
        metrics = {"data_s": wait, "step_s": wait + 0.4}
        (found,) = check_rule(DataLoaderBottleneck, rows_of(metrics), {"num_workers": 0})
        assert found.step is not None
        assert 100 < found.step <= 130
        assert "num_workers above 0" in found.causes[0].fix

    def test_a_pause_at_the_end_of_each_epoch_is_none(self) -> None:
        wait = np.where(np.arange(300) % 50 == 0, 20.0, 0.05)
        assert not check_rule(DataLoaderBottleneck, rows_of({"data_s": wait, "step_s": wait + 0.4}))

    def test_is_incomplete_without_the_phase(self) -> None:
        assert fired_by(DataLoaderBottleneck(), rows_of({"loss": [1.0]})).lacking == {
            "DataLoaderBottleneck": "no phase `data` was measured"
        }


class TestStraggler:
    def rows(self, slow: float, every: int = 1, ranks: int = 8) -> list[Row]:
        rng = np.random.default_rng(3)
        rows: list[Row] = []
        for step in range(200):
            seconds = 0.2 * np.exp(0.1 * rng.standard_normal(ranks))
            if step >= 60 and step % every == 0:
                seconds[ranks - 3 if ranks > 3 else 0] *= slow
            for rank in range(ranks):
                metrics = {"data_s": 0.01, "forward_s": float(seconds[rank]), "step_s": float(seconds.max())}
                rows.append((rank, step, START + step, metrics, False))
        return rows

    def test_the_slow_rank_is_named(self) -> None:
        (found,) = told(Straggler(), self.rows(1.6))
        assert found.rank == 5
        assert found.step is not None
        assert 60 < found.step < 90

    def test_a_rank_that_is_slow_now_and_then_is_found(self) -> None:
        assert [f.rank for f in told(Straggler(), self.rows(2.5, every=3))] == [5]

    def test_even_ranks_are_silent(self) -> None:
        assert not told(Straggler(), self.rows(1.0))

    def test_two_ranks_are_enough_where_one_is_far_slower(self) -> None:
        assert [f.rank for f in told(Straggler(), self.rows(2.0, ranks=2))] == [0]

    @pytest.mark.parametrize(("ranks", "every"), [(2, 1), (4, 1), (8, 1), (8, 3)])
    def test_a_rank_is_found_whose_data_the_others_wait_for_in_forward(self, ranks: int, every: int) -> None:
        """As DDP does for a model with buffers: forward begins when rank 0 is there."""
        rng = np.random.default_rng(5)
        rows: list[Row] = []
        for step in range(200):
            data = 0.02 * np.exp(0.3 * rng.standard_normal(ranks))
            if step >= 60 and step % every == 0:
                data[0] += 0.3
            forward = 0.1 * np.exp(0.1 * rng.standard_normal(ranks)) + np.maximum(0.0, data[0] - data)
            for rank in range(ranks):
                metrics = {"data_s": float(data[rank]), "forward_s": float(forward[rank])}
                rows.append((rank, step, START + step, metrics, False))
        (found,) = told(Straggler(), rows)
        assert found.rank == 0
        assert "wait for it in forward" in found.summary

    @pytest.mark.parametrize("seed", [3, 7, 10])
    def test_steps_of_uneven_length_on_all_ranks_are_silent(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows: list[Row] = []
        for step in range(300):
            for rank, data in enumerate(0.1 * np.exp(0.5 * rng.standard_normal(8))):
                rows.append((rank, step, START + step, {"data_s": float(data), "forward_s": 0.05}, False))
        assert not told(Straggler(), rows)

    def test_what_costs_a_small_part_of_the_step_is_silent(self) -> None:
        """Twice as long for 2 ms of a step of 50 ms: nobody gains from mending that."""
        rows: list[Row] = []
        for step in range(100):
            for rank, forward in enumerate((0.002, 0.004)):
                metrics = {"forward_s": forward, "step_s": 0.05}
                rows.append((rank, step, START + 0.05 * step, metrics, False))
        assert not told(Straggler(), rows)

    def test_the_times_are_those_of_the_seconds_that_it_tells(self) -> None:
        rng = np.random.default_rng(4)
        rows: list[Row] = []
        for step in range(100):
            for rank, forward in enumerate((0.02, 0.1)):
                seconds = forward * float(np.exp(0.7 * rng.standard_normal()))
                rows.append((rank, step, START + 0.2 * step, {"forward_s": seconds, "step_s": 0.2}, False))
        (found,) = told(Straggler(), rows)
        times, slow, fast = (float(n) for n in re.findall(r"[\d.]*\d", found.summary.partition("takes")[2]))
        assert times == pytest.approx(slow / fast, abs=0.06)

    def test_one_rank_alone_is_incomplete(self) -> None:
        assert fired_by(Straggler(), rows_of({"forward_s": [1.0] * 50})).lacking == {
            "Straggler": "the run has one rank here"
        }


class TestThroughputDrop:
    def test_a_run_that_becomes_slower_for_minutes_is_found(self) -> None:
        speed = np.where(np.arange(2000) < 1000, 100.0, 40.0)
        (found,) = check_rule(ThroughputDrop, rows_of({"samples_per_second": speed}))
        assert found.step is not None
        assert 1000 < found.step < 1400

    def test_a_slow_minute_and_regular_evaluations_are_none(self) -> None:
        x = np.arange(2000)
        speed = np.where((x % 100 < 10) | ((x > 1000) & (x < 1100)), 10.0, 100.0)
        assert not check_rule(ThroughputDrop, rows_of({"samples_per_second": speed}))


def test_busy_cpus_before_an_idle_gpu_are_the_bottleneck() -> None:
    cpu = Metric("system_cpu_seconds_total", "counter", "", ("mode",))
    gpu = Metric("gpu_utilization_ratio", "gauge", "", ("gpu", "uuid"))
    info = Metric("gpu_info", "info", "", ("gpu", "uuid"))
    for busy, expected in ((0.99, 1), (0.5, 0)):
        node = Node("n")
        rank = node.attach(RankInfo(RankKey("p", "r", 0), 1, "id", device_uuids=("GPU-a",)), 0.0)
        for second in range(120):
            modes = [Sample(cpu, busy * 8 * second, ("user",)), Sample(cpu, (1 - busy) * 8 * second, ("idle",))]
            node.observe("cpu", modes, float(second))
            node.observe("gpu", [Sample(info, 1.0, ("0", "GPU-a")), Sample(gpu, 0.3, ("0", "GPU-a"))], float(second))
        rank.apply(Batch(0, 0, (Block((), np.arange(120), np.arange(120.0), np.empty((120, 0))),)), 119.0)
        verdict = HostBottleneck().check(node, node.runs["p", "r"], 120.0)
        assert isinstance(verdict, tuple)
        assert len(verdict) == expected


class TestACpuLimit:
    """The rank's container may use 4 of the machine's 128 cores, and the machine is idle."""

    def limited(self, used: float) -> Node:
        node = Node("n")
        rank = node.attach(RankInfo(RankKey("p", "r", 0), 1, "id", device_uuids=("GPU-a",)), 0.0)
        of_rank = ("run", "rank")
        limit, time = (
            Metric("rank_cpus", "gauge", "", of_rank),
            Metric("system_cpu_seconds_total", "counter", "", ("mode",)),
        )
        use = Metric("rank_cpu_limit_used_seconds_total", "counter", "", of_rank)
        info, gpu = (
            Metric("gpu_info", "info", "", ("gpu", "uuid")),
            Metric("gpu_utilization_ratio", "gauge", "", ("gpu", "uuid")),
        )
        for second in range(120):
            modes = [Sample(time, 2.0 * second, ("user",)), Sample(time, 126.0 * second, ("idle",))]
            node.observe("cpu", [*modes, Sample(Metric("system_cpus", "gauge", ""), 128.0)], float(second))
            node.observe("gpu", [Sample(info, 1.0, ("0", "GPU-a")), Sample(gpu, 0.3, ("0", "GPU-a"))], float(second))
            own = [Sample(limit, 4.0, ("r", "0")), Sample(use, used * second, ("r", "0"))]
            node.observe("process", own, float(second))
        rank.apply(Batch(0, 0, (Block((), np.arange(120), np.arange(120.0), np.empty((120, 0))),)), 119.0)
        return node

    def test_a_rank_that_uses_its_limit_up_is_held_up_on_an_idle_machine(self) -> None:
        node = self.limited(3.92)
        verdict = HostBottleneck().check(node, node.runs["p", "r"], 120.0)
        assert isinstance(verdict, tuple)
        (finding,) = verdict
        assert finding.value == pytest.approx(0.98)
        assert finding.summary == "The 4 CPUs of the rank's control group are busy 98% and GPU 0 only 30% of the time"
        assert "CPU limit" in finding.causes[0].fix

    def test_a_rank_below_its_limit_is_not(self) -> None:
        node = self.limited(2.0)
        assert HostBottleneck().check(node, node.runs["p", "r"], 120.0) == ()

    def test_idle_cores_are_those_that_the_rank_may_use(self) -> None:
        """More loader workers are no help where there is no core for them."""
        seconds = np.full((20, 1), 0.6)
        for used, expected in ((1.0, "3 of 4 CPU cores are idle"), (3.9, "the CPU cores are busy")):
            node = self.limited(used)
            rank = node.runs["p", "r"].ranks[0]
            step = np.arange(120, 140)
            rank.apply(Batch(0, 0, (Block((Column("data", "phase"),), step, step.astype(np.float64), seconds),)), 140.0)
            cause = slow.data_loading(Around(node, node.runs["p", "r"], rank, 139, 140.0))
            assert cause is not None
            assert expected in cause.evidence + cause.fix


@pytest.mark.parametrize(
    ("busy", "own", "evidence"),
    [
        (2.0, 0.9, "the 2 CPU cores are busy 100% of the time, 55% with what is not of this run"),
        (2.0, 1.9, None),  # the training fills them itself
        (1.2, 0.2, None),  # there is room
    ],
)
def test_other_work_on_the_cores_is_told_from_the_trainings_own(busy: float, own: float, evidence: str | None) -> None:
    def sampled(t: float) -> dict[tuple[str, ...], float]:
        return {
            ("system_cpus",): 2.0,
            ("system_cpu_seconds_total", "user"): busy * t,
            ("system_cpu_seconds_total", "idle"): (2.0 - busy) * t,
            ("rank_cpu_seconds_total", "exp-1", "0"): own * t,
        }

    machine = Machine().live(90, sampled, steps_per_second=1)
    cause = slow.crowded(Around(machine.node, machine.run, machine.rank, 89, machine.now))
    assert (cause.evidence if cause is not None else None) == evidence
