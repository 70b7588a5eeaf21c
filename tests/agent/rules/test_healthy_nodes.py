"""A node on which all is well cries no wolf, whatever a training may do: not one of the rules says a word."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from rankscope.agent.component import Rule, discover
from rankscope.agent.model import Batch, Block, Column, End, Expect, Goodbye
from tests.agent.rules.machine import GPU, Key, Machine

GIB = 2**30
EVERY = 2.0  # seconds between two samples
RULES = (
    *("low_gpu_utilization", "data_loader_bottleneck", "host_bottleneck", "gpu_memory_pressure", "gpu_memory_leak"),
    *("gpu_hardware_error", "gpu_throttled", "gpu_hot", "host_memory_pressure", "disk_pressure"),
    *("rank_out_of_memory", "agent_blind"),
)


@dataclass
class Now:
    """What goes on in a moment; the defaults are a training in full swing."""

    use: float = 0.97  # of the GPU
    held: float = 58.0  # GiB of 80 by the rank
    cpu: float = 0.35  # of the cores
    memory: float = 700.0  # GiB available of 1000
    space: float = 4000.0  # GiB available of 8000
    disk: float = 0.1  # share of the time for which it is busy
    wait: float = 0.004  # seconds an operation
    heat: float = 74.0  # °C
    step: float = 1.0  # seconds; 0: no step ends
    data: float = 0.03  # share of it


@dataclass
class Healthy:
    """Lives through a story and notes what rules say of it."""

    machine: Machine = field(default_factory=Machine)
    rules: dict[str, Rule] = field(
        default_factory=lambda: {name: discover("rankscope.agent.rules")[name]() for name in RULES}
    )
    said: list[str] = field(default_factory=list[str])
    _counted: dict[Key, float] = field(default_factory=dict[Key, float])
    _due: float = 0.0

    def live(self, minutes: float, story: Callable[[float], Now]) -> Healthy:
        for i in range(int(minutes * 60 / EVERY)):
            now = story(i * EVERY)
            self.machine.live(2, lambda _, now=now: self._values(now), every=EVERY)  # type: ignore[misc]
            self._step(now)
            if not i % 5:
                self.judge()
        return self

    def judge(self) -> None:
        node, now = self.machine.node, self.machine.now
        for name, rule in self.rules.items():
            if rule.scope == "run" and not node.runs:
                continue
            verdict = rule.check(node, self.machine.run if rule.scope == "run" else None, now)
            if isinstance(verdict, tuple):
                self.said += [f"{name} at {now:.0f} s: {found.summary}" for found in verdict]

    @property
    def _owner(self) -> tuple[str, str]:
        """The run and rank of what holds the GPU's memory; blank for what is no rank."""
        return ("exp-1", "0") if self.machine.node.runs else ("", "")

    def _step(self, now: Now) -> None:
        end = self.machine.now
        ends = np.arange(self._due, end, now.step) if now.step else np.empty(0)
        if len(ends):
            seconds = np.tile([now.data * now.step, 0.3 * now.step, (0.65 - now.data) * now.step], (len(ends), 1))
            columns = (Column("data", "phase"), Column("forward", "phase"), Column("backward", "phase"))
            steps = np.arange(self.machine.step, self.machine.step + len(ends))
            self.machine.step += len(ends)
            self.machine.rank.apply(Batch(0, 0, (Block(columns, steps, ends, seconds),)), end)
        self._due = float(ends[-1]) + now.step if len(ends) else max(self._due, end)

    def _values(self, now: Now) -> dict[Key, float]:
        grown = {
            ("system_cpu_seconds_total", "user"): 64 * now.cpu,
            ("system_cpu_seconds_total", "idle"): 64 * (1 - now.cpu),
            ("system_disk_busy_seconds_total", "nvme0n1"): now.disk,
            ("system_disk_operations_total", "nvme0n1", "write"): 500.0 * now.disk,
            ("system_disk_operation_seconds_total", "nvme0n1", "write"): 500.0 * now.disk * now.wait,
            ("system_pressure_seconds_total", "memory", "full"): 0.001,
            ("gpu_throttle_seconds_total", *GPU, "sw_power_cap"): now.use,
            ("gpu_throttle_seconds_total", *GPU, "hw_thermal"): 0.0,
        }
        for key, rate in grown.items():
            self._counted[key] = self._counted.get(key, 0.0) + rate * EVERY
        return {
            **self._counted,
            ("gpu_utilization_ratio", *GPU): now.use,
            ("gpu_memory_used_bytes", *GPU): (now.held + 1) * GIB,
            ("gpu_memory_size_bytes", *GPU): 80.0 * GIB,
            ("gpu_memory_reserved_bytes", *GPU): 0.6 * GIB,
            ("gpu_process_memory_bytes", *GPU, *self._owner): now.held * GIB,
            ("gpu_temperature_celsius", *GPU, "gpu"): now.heat,
            ("gpu_temperature_celsius", *GPU, "memory"): now.heat + 8,
            ("gpu_temperature_slowdown_celsius", *GPU): 90.0,
            ("gpu_throttle_active", *GPU, "sw_power_cap"): float(now.use > 0.5),
            ("gpu_ecc_errors_total", *GPU, "corrected"): 12.0,
            ("gpu_ecc_errors_total", *GPU, "uncorrected"): 0.0,
            ("gpu_row_remap_failed", *GPU): 0.0,
            ("gpu_row_remap_pending", *GPU): 0.0,
            ("gpu_remapped_rows", *GPU, "corrected"): 2.0,
            ("gpu_recovery_action", *GPU): 0.0,
            ("gpu_nvlink_links_up", *GPU): 18.0,
            ("gpu_pcie_link_width", *GPU): 16.0 if now.use > 0.05 else 8.0,
            ("gpu_pcie_link_width_max", *GPU): 16.0,
            ("system_cpus",): 64.0,
            ("system_memory_available_bytes",): now.memory * GIB,
            ("system_memory_size_bytes",): 1000.0 * GIB,
            ("system_filesystem_avail_bytes", "/data"): now.space * GIB,
            ("system_filesystem_size_bytes", "/data"): 8000.0 * GIB,
            ("system_filesystem_readonly", "/data"): 0.0,
            ("system_filesystem_inodes_avail_ratio", "/data"): 0.8,
            ("system_shm_used_bytes",): 20.0 * GIB,
            ("system_shm_size_bytes",): 500.0 * GIB,
        }


def starting(t: float) -> Now:
    """Read a model and a data set into memory, compile on all cores, then fill the allocator's caches."""
    if t < 240:
        return Now(0.0, 2.0, 0.3, 900 - 400 * t / 240, disk=1.0, wait=0.01, heat=40, step=0)
    if t < 420:
        return Now(0.05, 20.0, 1.0, 500, disk=0.02, heat=45, step=0)
    return Now(held=min(58.0, 20 + (t - 420) / 2), memory=500)


def evaluating(t: float) -> Now:
    """Evaluate for a minute and a half in every five, with more memory and less of the GPU."""
    return Now(0.4, 66.0, 0.5, step=0) if t % 300 > 210 else Now()


def saving(t: float) -> Now:
    """Save for a minute in every ten, 150 GiB each time; every second time the two oldest are removed."""
    kept = int(t // 600) % 2
    if t % 600 > 540:
        return Now(0.0, 58.0, 0.4, 640, 4000 - 150 * (kept + (t % 600 - 540) / 60), disk=1.0, wait=0.05, step=0)
    return Now(space=4000 - 150 * kept)


def compiling(t: float) -> Now:
    """Meet new shapes after ten minutes, and compile for them on all cores."""
    return Now(0.02, 60.0, 1.0, step=0) if 600 < t < 690 else Now(held=58.0 if t < 600 else 62.0)


def accumulating(t: float) -> Now:
    """Accumulate gradients over 16 micro-batches: a step in 12 s, with a short gap for the optimiser's."""
    return Now(0.45 if t % 12 < EVERY else 0.96, step=12.0)


def swinging(period: float) -> Callable[[float], Now]:
    """Let the allocator's memory rise and fall, as garbage is collected or sequences become longer."""
    return lambda t: Now(held=50 + 22 * (t % period) / period)


def epochs(t: float) -> Now:
    """Wait 8 s for the loader's workers at the end of each epoch of two minutes."""
    return Now(0.0, cpu=0.9, step=0) if t % 120 > 111 else Now()


def warm(t: float) -> Now:
    """Run at the power limit in a warm room, within the card's own figures."""
    return Now(0.99, heat=83 + 2 * math.sin(t / 60))


def filling_the_cache_of_the_machine(t: float) -> Now:
    """Copy a data set of 500 GiB to the local disk in the first quarter of an hour, while the training goes on."""
    return Now(space=4000 - min(500, 500 * t / 900), memory=690 + 5 * math.sin(t / 20), disk=0.99, wait=0.02)


STORIES: dict[str, Callable[[float], Now]] = {
    "starting": starting,
    "evaluating": evaluating,
    "saving": saving,
    "compiling": compiling,
    "accumulating": accumulating,
    "memory that swings in a minute": swinging(60),
    "memory that swings in four minutes": swinging(240),
    "epochs": epochs,
    "warm": warm,
    "copying": filling_the_cache_of_the_machine,
}


@pytest.mark.parametrize("story", STORIES)
def test_a_healthy_training_is_nothing_to_talk_of(story: str) -> None:
    assert Healthy().live(40, STORIES[story]).said == []


def test_memory_that_fell_back_before_is_not_said_to_fill_up() -> None:
    """However long a swing takes: that the first one ends can nobody know."""
    healthy = Healthy().live(31, swinging(900))
    healthy.said.clear()
    assert healthy.live(60, lambda t: swinging(900)(t + 60)).said == []


def test_a_job_that_ends_is_nothing_to_talk_of() -> None:
    """Its memory is given back, the card goes to sleep, the rank says goodbye."""
    healthy = Healthy().live(20, lambda _: Now())
    machine = healthy.machine
    machine.say(Goodbye(machine.step, machine.now, End.FINISHED))
    assert healthy.live(20, lambda _: Now(0.0, 0.0, 0.01, 950, heat=35, step=0)).said == []


def test_a_long_evaluation_that_was_announced_is_nothing_to_talk_of() -> None:
    healthy = Healthy().live(20, lambda _: Now())
    machine = healthy.machine
    machine.say(Expect(machine.step, machine.now, 1200.0))
    assert healthy.live(15, lambda _: Now(0.2, cpu=0.95, step=0)).live(20, lambda _: Now()).said == []


def test_a_notebook_that_sits_on_an_idle_gpu_is_nothing_to_talk_of() -> None:
    """No rank is there; somebody's kernel holds memory, and calls it at times."""
    healthy = Healthy()
    healthy.machine.node.runs.clear()
    assert healthy.live(20, lambda t: Now(0.9 if t % 200 < 4 else 0.0, 30.0, 0.02, 900, heat=38, step=0)).said == []
