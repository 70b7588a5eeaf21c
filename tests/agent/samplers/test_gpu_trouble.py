"""Cards and drivers that hang, vanish and come back: the agent goes on, and says that it is blind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rankscope.agent.model import Sample
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._nvml.source import BlindError, NvmlSource
from rankscope.agent.samplers.gpu import Gpu
from tests.agent.samplers.conftest import Driver, values
from tests.nvml import build
from tests.waiting import wait_for

Make = Callable[..., Gpu]


def pid_of(sampler: Gpu) -> int | None:
    source = sampler._nvml
    assert source is not None
    return source._link.pid if source._link is not None else None


def look(sampler: Gpu, node: Node) -> tuple[Sample, ...]:
    """Sample once NVML is open: on a busy machine its process may take longer to start than a look may last."""
    found: list[tuple[Sample, ...]] = []

    def opened() -> bool:
        try:
            found.append(tuple(sampler.sample(node)))
        except BlindError as error:
            if str(error) == "NVML is opening":
                return False
            raise
        return True

    wait_for(opened)
    return found[0]


def forget_waiting(sampler: Gpu) -> None:
    """Let the times after which something is tried again be over, and the processes that were killed be dead."""
    source = sampler._nvml
    assert source is not None
    for link in source._stuck:
        with contextlib.suppress(subprocess.TimeoutExpired):
            link._process.wait(60)
    for backoff in (source._starts, source._lost, *source._hung.values()):
        backoff.until = 0.0


def test_a_call_that_hangs_ends_with_its_process_and_values_come_back(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("h100"))
    sampler = gpu(deadline=0.5)
    assert values(look(sampler, node))["gpu_up", "0"] == 1
    first = pid_of(sampler)
    driver.answer("nvmlDeviceGetPowerUsage", "hang")
    found = values(look(sampler, node))
    assert found["gpu_up", "0"] == 0
    assert ("gpu_power_watts", "0") not in found
    driver.answer("nvmlDeviceGetPowerUsage", "99000")
    forget_waiting(sampler)
    assert values(look(sampler, node))["gpu_power_watts", "0"] == 99
    assert pid_of(sampler) != first
    look(sampler, node)
    assert not os.path.exists(f"/proc/{first}"), "the old process is dead and buried"


def test_one_card_that_hangs_costs_that_card_only(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.several("h100", 3))
    sampler = gpu(deadline=1.5)
    look(sampler, node)
    cards = driver.path.read_text().split("card\n")
    cards[2] = "* hang\n" + cards[2]
    driver.load("card\n".join(cards))
    with pytest.raises(BlindError, match="GPU 1 did not answer in time"):
        look(sampler, node)  # of the card behind it nothing is known: it is neither up nor down
    found = values(look(sampler, node))
    assert found["gpu_state_seconds_total", "2", "dead"] == 0
    pid = pid_of(sampler)
    look(sampler, node)
    assert pid_of(sampler) == pid, "the card that hangs is left out for a while"
    assert [found["gpu_up", gpu] for gpu in "012"] == [1, 0, 1]
    assert ("gpu_power_watts", "0") in found
    assert ("gpu_power_watts", "2") in found
    assert ("gpu_power_watts", "1") not in found
    look(sampler, node)
    found = values(look(sampler, node))
    assert found["gpu_state_seconds_total", "1", "dead"] > 0
    forget_waiting(sampler)
    found = values(look(sampler, node))
    assert [found["gpu_up", gpu] for gpu in "012"] == [1, 0, 1], "it is tried again behind the others"
    cards[2] = cards[2].replace("* hang\n", "")
    driver.load("card\n".join(cards))
    forget_waiting(sampler)
    look(sampler, node)
    found = values(look(sampler, node))
    assert [found["gpu_up", gpu] for gpu in "012"] == [1, 1, 1]


def test_the_first_look_may_take_longer_for_it_wakes_the_cards(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.answering(build.scenario("h100"), "nvmlDeviceGetName", "slow 1.0 NVIDIA H100 80GB HBM3"))
    assert values(look(gpu(deadline=0.5, first_deadline=60.0), node))["gpu_up", "0"] == 1


def test_nvml_that_never_opens_is_given_up(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load("nvmlInit hang\n" + build.scenario("h100"))
    sampler = gpu(deadline=0.1)
    with pytest.raises(BlindError, match="NVML is opening"):
        list(sampler.sample(node))
    source = sampler._nvml
    assert source is not None
    assert source._link is not None
    source._link.started -= 100.0
    with pytest.raises(BlindError, match="did not open within 60 s"):
        look(sampler, node)


def test_a_driver_that_is_not_loaded_is_said_in_its_own_words(gpu: Make, node: Node) -> None:
    sampler = gpu()
    with pytest.raises(BlindError, match="Driver Not Loaded"):
        look(sampler, node)
    with pytest.raises(BlindError, match="Driver Not Loaded"):
        look(sampler, node)


def test_the_driver_is_replaced_while_the_agent_runs(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("h100"))
    sampler = gpu()
    look(sampler, node)
    driver.load("nvmlDeviceGetCount error 18\n" + build.scenario("h100"))
    with pytest.raises(BlindError, match="version mismatch"):
        look(sampler, node)
    driver.load(build.answering(build.scenario("h100"), "driver", "575.10"))
    forget_waiting(sampler)
    info = next(sample for sample in look(sampler, node) if sample.metric.name == "gpu_driver_info")
    assert info.labels[0] == "575.10"


def test_a_card_that_falls_off_the_bus_is_down_until_it_returns(driver: Driver, gpu: Make, node: Node) -> None:
    whole = build.several("h100", 2)
    driver.load(whole)
    sampler = gpu()
    assert values(look(sampler, node))["gpu_up", "1"] == 1
    first = pid_of(sampler)
    cards = whole.split("card\n")
    driver.load("card\n".join([*cards[:2], "* error 15\n" + cards[2]]))
    found = values(look(sampler, node))
    assert found["gpu_up", "0"] == 1
    assert found["gpu_up", "1"] == 0
    assert ("gpu_utilization_ratio", "1") not in found
    driver.load("card\n".join(cards[:2]))  # and NVML forgets it
    assert values(look(sampler, node))["gpu_up", "1"] == 0
    driver.load(whole)
    forget_waiting(sampler)
    look(sampler, node)  # this look ends the old process: only NVML opened anew finds the card
    assert values(look(sampler, node))["gpu_up", "1"] == 1
    assert pid_of(sampler) != first


def test_a_card_that_appears_is_seen(driver: Driver, gpu: Make, node: Node, tmp_path: Path) -> None:
    """The kernel's list of devices tells that NVML must be opened anew."""
    bus = tmp_path / "root/proc/driver/nvidia/gpus"
    (bus / "0000:10:00.0").mkdir(parents=True)
    driver.load(build.several("h100", 1))
    sampler = gpu(root=str(tmp_path / "root"))
    assert ("gpu_up", "1") not in values(look(sampler, node))
    first = pid_of(sampler)
    driver.load(build.several("h100", 2))
    (bus / "0000:11:00.0").mkdir()
    assert values(look(sampler, node))["gpu_up", "1"] == 1
    assert pid_of(sampler) != first


def test_the_process_that_holds_nvml_is_killed_and_replaced(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("h100"))
    sampler = gpu()
    look(sampler, node)
    first = pid_of(sampler)
    assert first is not None
    os.kill(first, 9)
    with pytest.raises(BlindError, match="SIGKILL"):
        look(sampler, node)
    forget_waiting(sampler)
    assert values(look(sampler, node))["gpu_up", "0"] == 1


def test_a_process_that_cannot_be_ended_keeps_its_card_out(
    driver: Driver, gpu: Make, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs in the kernel outlives SIGKILL: there is one a card at most, and others are seen all the while."""
    driver.load(build.several("h100", 2).replace("card\n", "card\n* hang\n", 1))
    sampler = gpu(deadline=0.5, first_deadline=0.5)
    monkeypatch.setattr("rankscope.agent.samplers._nvml.link.Link.dead", lambda self: False)
    with pytest.raises(BlindError, match="GPU 0 did not answer"):
        look(sampler, node)
    for _ in range(5):
        found = values(look(sampler, node))
        assert [found["gpu_up", gpu] for gpu in "01"] == [0, 1]
        forget_waiting(sampler)
    assert sampler._nvml is not None
    assert len(sampler._nvml._stuck) == 1
    driver.load(build.several("h100", 2))
    monkeypatch.undo()
    assert values(look(sampler, node))["gpu_up", "0"] == 1, "as soon as that process is gone"


def test_processes_that_hang_before_any_card_do_not_pile_up(
    driver: Driver, gpu: Make, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankscope.agent.samplers._nvml.link.Link.dead", lambda self: False)
    driver.load("nvmlDeviceGetCount hang\n" + build.scenario("h100"))
    sampler = gpu(deadline=0.3, first_deadline=0.3)
    for _ in range(3):
        with pytest.raises(BlindError, match="NVML did not answer"):
            look(sampler, node)
        forget_waiting(sampler)
    with pytest.raises(BlindError, match="3 processes hang in the driver"):
        look(sampler, node)
    monkeypatch.undo()


def test_the_only_card_is_lost_with_its_error_and_comes_back(driver: Driver, gpu: Make, node: Node) -> None:
    """NVML tells the error and then no longer whose it is."""
    whole = build.scenario("h100")
    driver.load(whole)
    sampler = gpu()
    look(sampler, node)
    driver.load(whole.replace("card\n", "card\n* error 15\n") + "xid 79\n")
    found: dict[tuple[str, ...], float] = {}

    def told() -> bool:
        found.update(values(look(sampler, node)))
        return ("gpu_xid_errors_total", "0", "79") in found

    wait_for(told)
    assert found["gpu_up", "0"] == 0
    driver.load(whole + "xid 79\n")
    forget_waiting(sampler)
    look(sampler, node)  # ends the old process
    found = values(look(sampler, node))
    assert found["gpu_up", "0"] == found["gpu_xid_errors_total", "0", "79"] == 1


def test_an_error_is_told_while_its_card_hangs(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("h100"))
    sampler = gpu(deadline=1.0)
    look(sampler, node)
    driver.load(build.scenario("h100").replace("card\n", "card\n* hang\n") + "xid 119\n")
    found = values(look(sampler, node))
    assert found["gpu_up", "0"] == 0
    assert found["gpu_xid_errors_total", "0", "119"] == 1


@pytest.mark.parametrize("how", ["error 15", "error 999", "hang"])
def test_a_card_that_was_out_of_order_before_the_agent_came_is_down(
    driver: Driver, gpu: Make, node: Node, how: str
) -> None:
    """Its uuid cannot be read; its index is known."""
    cards = build.several("h100", 2).split("card\n")
    driver.load("card\n".join([*cards[:2], f"* {how}\n{cards[2]}"]))
    sampler = gpu(deadline=1.0, first_deadline=1.0)
    for _ in range(2):
        found = values(look(sampler, node))
        assert [found["gpu_up", gpu] for gpu in "01"] == [1, 0]
    assert found["gpu_state_seconds_total", "1", "dead"] > 0


def test_a_card_at_which_nvml_crashes_is_left_out(driver: Driver, gpu: Make, node: Node) -> None:
    cards = build.several("h100", 2).split("card\n")
    driver.load("card\n".join([*cards[:2], f"* crash\n{cards[2]}"]))
    sampler = gpu()
    with pytest.raises(BlindError, match="SIGABRT"):
        look(sampler, node)  # once may be chance
    forget_waiting(sampler)
    found = values(look(sampler, node))
    assert [found["gpu_up", gpu] for gpu in "01"] == [1, 0]


def test_the_process_ends_when_its_agent_is_gone(driver: Driver, library: Path) -> None:
    """Also while NVML hangs."""
    driver.load(build.answering(build.scenario("h100"), "nvmlDeviceGetPowerUsage", "hang"))
    source = NvmlSource(str(library), deadline=60.0)
    link = source._open(time.monotonic())
    assert link._process.stdin is not None
    link._process.stdin.write(b'{"slow": true, "skip": []}\n')
    wait_for(lambda: b'"at"' in os.read(link._process.stdout.fileno(), 100) if link._process.stdout else False)
    link._process.stdin.close()
    link._process.wait(60)
    source.close()
