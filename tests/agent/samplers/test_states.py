"""What each second of a GPU was."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from rankscope.agent.model import Batch, Block, Column, RankInfo, RankKey
from rankscope.agent.runs.clock import Clock, Reading
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._nvml.reading import Instance
from rankscope.agent.samplers._nvml.states import Figures, split, split_slices
from rankscope.agent.samplers.gpu import Gpu
from tests.agent.samplers.conftest import Driver, attach, declared, values
from tests.nvml import build

Make = Callable[..., Gpu]


def rank(*, world_size: int = 2, **phases: float) -> Rank:
    """A rank whose steps of 1 s spend these parts of it in phases."""
    made = Node("n").attach(RankInfo(RankKey("p", "r", 0), 1, "id", world_size=world_size), 0.0)
    columns = tuple(Column(name, "phase") for name in phases)
    step = np.arange(20)
    value = np.tile(np.array(list(phases.values())), (20, 1)).reshape(20, len(phases))
    made.apply(Batch(0, 0, (Block(columns, step, step.astype(float), value),)), 20.0)
    return made


def parts(figures: Figures, *ranks: Rank) -> dict[str, float]:
    found = split(figures, ranks)
    assert found is not None
    assert sum(found.values()) == pytest.approx(1)
    return {state: round(part, 2) for state, part in found.items() if part > 0.004}


def test_work_is_the_time_with_a_kernel_on_the_gpu() -> None:
    assert parts(Figures(0.8, 0.7), rank(forward=1.0)) == {"working": 0.8, "idle": 0.2}


def test_a_gpu_starves_while_its_rank_waits_for_data() -> None:
    """As far as it was free: the wait of a loader that works ahead costs the GPU nothing."""
    assert parts(Figures(0.3, 0.5), rank(data=0.6, forward=0.4)) == {"working": 0.3, "starved": 0.6, "idle": 0.1}
    assert parts(Figures(0.9, 0.9), rank(data=0.6, forward=0.4)) == {"working": 0.9, "starved": 0.1}


def test_nobodys_gpu_is_idle() -> None:
    assert parts(Figures(0.0, 0.1)) == {"idle": 1.0}


def test_a_gpu_that_spins_in_a_collective_looks_busy_and_draws_little() -> None:
    assert parts(Figures(1.0, 0.14), rank(forward=1.0)) == {"communicating": 1.0}
    assert parts(Figures(1.0, 0.6), rank(forward=1.0)) == {"working": 1.0}


def test_who_is_alone_waits_for_nobody() -> None:
    """Small kernels keep a large card at 100 % and draw little."""
    assert parts(Figures(1.0, 0.2), rank(forward=1.0, world_size=1)) == {"working": 1.0}
    alone, together = rank(forward=1.0, world_size=1), rank(forward=1.0)
    assert parts(Figures(1.0, 0.2), alone, together) == {"communicating": 1.0}


def test_profiling_figures_tell_spinning_better_than_power() -> None:
    assert parts(Figures(1.0, 0.5, tensor=0.0, dram=0.01), rank(forward=1.0)) == {"communicating": 1.0}
    assert parts(Figures(1.0, 0.2, tensor=0.0, dram=0.4), rank(forward=1.0)) == {"working": 1.0}


def test_time_that_the_rank_says_it_communicated_is_so_counted() -> None:
    assert parts(Figures(0.9, 0.8), rank(forward=0.7, comm=0.3)) == {"communicating": 0.3, "working": 0.6, "idle": 0.1}


def test_work_at_clocks_that_heat_cut_is_throttled() -> None:
    assert parts(Figures(0.9, 0.8, slowed=True), rank(forward=1.0)) == {"throttled": 0.9, "idle": 0.1}


def test_a_card_that_does_not_tell_is_in_no_state() -> None:
    assert split(Figures(None), ()) is None


def test_figures_are_read_from_the_cards_values() -> None:
    found = Figures.of(
        {
            ("gpu_sm_active_ratio", ""): 0.4,
            ("gpu_power_watts", ""): 350.0,
            ("gpu_power_limit_watts", ""): 700.0,
            ("gpu_throttle_active", "hw_thermal"): 1.0,
        }
    )
    assert found == Figures(0.4, 0.5, slowed=True), "in MIG mode SM activity stands for utilisation"


def show(node: Node, now: float) -> None:
    """Let the node's clock show a time."""
    node.clock = Clock(lambda: Reading(now, time.monotonic()))


def live(sampler: Gpu, node: Node, ranks: list[Rank], seconds: float) -> dict[tuple[str, ...], float]:
    """Let a simulated machine train for a while, a step a second."""
    now = time.time()
    found: dict[tuple[str, ...], float] = {}
    for i in range(int(seconds)):
        show(node, now + i)
        for each in ranks:
            each.apply(Batch(0, 0, (Block((), np.array([i]), np.array([now + i]), np.empty((1, 0))),)), now + i)
        samples = tuple(sampler.sample(node))
        node.observe("gpu", samples, now + i)
        found = values(samples)
    return found


def test_simulated_cards_react_to_the_ranks_on_them() -> None:
    node = Node("n")
    attach(node, 1, rank=0)
    first = node.runs["p", "exp-1"].ranks[0]
    found = live(Gpu(source="simulated"), node, [first], 30)
    assert found["gpu_utilization_ratio", "0"] > 0.9
    assert found["gpu_utilization_ratio", "1"] == 0
    assert found["gpu_power_watts", "0"] > 500
    assert found["gpu_power_watts", "1"] == 70
    assert found["gpu_temperature_celsius", "0", "gpu"] > 50
    assert found["gpu_memory_used_bytes", "0"] > 30e9
    assert found["gpu_process_memory_bytes", "0", "exp-1", "0"] > 30e9
    assert found["gpu_state_seconds_total", "0", "working"] > 20
    assert found["gpu_state_seconds_total", "1", "idle"] == pytest.approx(29, abs=0.5)


def test_simulated_cards_say_that_they_are_simulated() -> None:
    info = [s for s in Gpu(source="simulated").sample(Node("n")) if s.metric.name == "gpu_info"]
    assert [dict(zip(s.metric.labels, s.labels, strict=True))["simulated"] for s in info] == ["true", "true"]


def test_simulated_cards_can_be_any_scenario() -> None:
    """The same files describe what the stand-in for NVML's library shows."""
    path = build.HERE / "scenarios" / "rtx4090.scenario"
    names = {s.metric.name for s in Gpu(source="simulated", scenario=str(path)).sample(Node("n"))}
    assert "gpu_fan_speed_ratio" in names
    assert "gpu_ecc_errors_total" not in names


def test_the_rank_is_found_on_its_simulated_card() -> None:
    node = Node("n")
    attach(node, 1, rank=1)
    each = node.runs["p", "exp-1"].ranks[1]
    live(Gpu(source="simulated"), node, [each], 3)
    device = Devices(node).of(each)
    assert device is not None
    assert device.gpu == "1"


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_time_by_which_the_clock_was_set_was_nothing(jump: int) -> None:
    node = Node("n")
    sampler = Gpu(source="simulated")
    before = live(sampler, node, [], 3)["gpu_state_seconds_total", "0", "idle"]
    energy = values(sampler.sample(node))["gpu_energy_joules_total", "0"]
    show(node, time.time() + jump)
    found = values(sampler.sample(node))
    assert found["gpu_state_seconds_total", "0", "idle"] == pytest.approx(before, abs=0.5)
    assert 0 <= found["gpu_energy_joules_total", "0"] - energy < 60 * 100


def states(found: dict[tuple[str, ...], float], gpu: str = "0") -> dict[str, float]:
    return {key[2]: value for key, value in found.items() if key[:2] == ("gpu_state_seconds_total", gpu)}


def test_a_gpu_whose_processes_are_hidden_starves_with_the_rank_that_named_it(driver: Driver, gpu: Make) -> None:
    """As from a container without the host's pids."""
    text = "".join(line for line in build.scenario("h100").splitlines(True) if not line.startswith("process"))
    driver.load(build.answering(text, "nvmlDeviceGetUtilizationRates.gpu", "20"))
    node = Node("n")
    attach(node, 1, device_uuids=("GPU-7a1f3c52-9d64-4be0-8f27-1c5e8a90d3b1",))
    waiting = rank(data=0.7, forward=0.3)
    node.runs["p", "exp-1"].ranks[0].phases = waiting.phases
    node.runs["p", "exp-1"].ranks[0].step_seconds = waiting.step_seconds
    sampler = gpu()
    for _ in range(3):
        samples = tuple(sampler.sample(node))
        node.observe("gpu", samples, time.time())
    found = states(values(samples))
    assert found["starved"] > found["idle"] > 0


def test_a_card_that_never_tells_what_it_does_has_no_states(driver: Driver, gpu: Make, node: Node) -> None:
    """An A100 in MIG mode: six zeros would say that it does nothing."""
    driver.load(build.scenario("a100-mig"))
    sampler = gpu()
    for _ in range(2):
        assert states(values(sampler.sample(node))) == {}


def slice_of(number: int, profile: str, **active: float) -> Instance:
    found = [(f"mig_{part}_active_ratio", "", value) for part, value in active.items()]
    return Instance(f"MIG-{number}", profile, number, 0, found, [])


def test_a_card_that_is_cut_up_is_in_the_states_of_its_slices() -> None:
    """3 of 7 slices work, 2 starve as far as they can, 1 spins, and 1 nobody has."""
    parts = [
        slice_of(1, "3g.40gb", engine=1.0, sm=0.6, tensor=0.4, dram=0.4),
        slice_of(2, "2g.20gb", engine=0.25, sm=0.2, tensor=0.1, dram=0.1),
        slice_of(5, "1c.1g.10gb", engine=1.0, sm=0.9, tensor=0.0, dram=0.01),
        slice_of(5, "1c.1g.10gb", engine=1.0, sm=0.9, tensor=0.0, dram=0.01),  # the same GPU instance
    ]
    waiting = {"MIG-2": [rank(data=0.7, forward=0.3)]}
    found = split_slices(7, Figures(None), parts, lambda each: waiting.get(each.uuid, []))
    assert found == pytest.approx(
        {"working": (3 + 0.5) / 7, "starved": 1.4 / 7, "communicating": 1 / 7, "idle": (1 + 0.1) / 7}
    )
    assert split_slices(7, Figures(None), [*parts, slice_of(6, "1g.10gb")], lambda each: []) is None


def test_an_h100_that_is_cut_up_tells_its_states(driver: Driver, gpu: Make, node: Node) -> None:
    """Four slices of seven exist; each is worked on by half."""
    text = build.scenario("a100-mig").replace("A100-SXM4-80GB", "H100 80GB HBM3")
    driver.load(text.replace("nvmlDeviceGetComputeInstanceId 0\n", "nvmlDeviceGetComputeInstanceId 0\ngpm.1 50\n"))
    sampler = gpu()
    list(sampler.sample(node))
    first = states(values(sampler.sample(node)))
    start = sampler._last
    found = states(values(sampler.sample(node)))
    passed = sampler._last - start
    assert found["working"] - first["working"] == pytest.approx(passed * 2 / 7)
    assert found["idle"] - first["idle"] == pytest.approx(passed * 5 / 7)


def test_the_states_of_each_card_add_up_to_the_time_that_passed(driver: Driver, gpu: Make, node: Node) -> None:
    """Also of two that were out of order before the agent came, and have no name."""
    cards = build.several("h100", 4).split("card\n")
    driver.load("card\n".join([*cards[:3], *(f"* error 15\n{card}" for card in cards[3:])]))
    sampler = gpu()
    first = values(sampler.sample(node))
    start = sampler._last
    for _ in range(4):
        found = values(sampler.sample(node))
    for index in "0123":
        passed = sum(states(found, index).values()) - sum(states(first, index).values())
        assert passed == pytest.approx(sampler._last - start)
    assert states(found, "3")["dead"] == pytest.approx(sampler._last - start)


def test_everything_given_is_declared() -> None:
    sampler = Gpu(source="simulated")
    assert declared(sampler.metrics, tuple(sampler.sample(Node("n"))))
