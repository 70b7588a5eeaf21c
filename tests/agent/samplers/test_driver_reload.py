"""A driver that is taken out and another that is put in, while the agent runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._nvml.source import BlindError
from rankscope.agent.samplers.gpu import Gpu
from tests.agent.samplers.conftest import Driver, Root, values
from tests.agent.samplers.test_gpu_trouble import forget_waiting, look
from tests.nvml import build

Make = Callable[..., Gpu]
NAME = "libnvidia-ml.so.1"


def test_a_driver_is_exchanged_with_its_library(driver: Driver, node: Node, library: Path, tmp_path: Path) -> None:
    """What the old one did not support is asked of the new one."""
    folder = tmp_path / "lib"
    folder.mkdir()
    shutil.copy(library / NAME, folder / NAME)
    driver.load(build.scenario("l4"))
    sampler = Gpu(source="nvml", library=str(folder), deadline=60.0)
    assert ("gpu_fan_speed_ratio", "0") not in values(look(sampler, node))
    driver.load("nvmlDeviceGetCount error 1\n" + build.scenario("l4"))  # its module is unloaded
    (folder / NAME).unlink()
    for why in ("Uninitialized", "NVML Shared Library Not Found"):
        with pytest.raises(BlindError, match=why):
            look(sampler, node)
        forget_waiting(sampler)
    shutil.copy(library / NAME, folder / NAME)
    driver.load("nvmlInit error 18\n" + build.scenario("l4"))  # and the new one's is not yet loaded
    with pytest.raises(BlindError, match="version mismatch"):
        look(sampler, node)
    forget_waiting(sampler)
    driver.load(build.answering(build.scenario("l4"), "driver", "595.10") + "nvmlDeviceGetFanSpeed 30\n")
    samples = look(sampler, node)
    assert [sample.labels[0] for sample in samples if sample.metric.name == "gpu_driver_info"] == ["595.10"]
    assert values(samples)["gpu_fan_speed_ratio", "0"] == 0.3
    sampler.close()


def test_the_states_of_a_card_add_up_while_another_hangs_and_comes_back(driver: Driver, gpu: Make, node: Node) -> None:
    """And none goes back, in whatever a second was blind."""
    cards = build.several("h100", 2).split("card\n")
    whole = "card\n".join(cards)
    driver.load(whole)
    sampler = gpu(deadline=1.0, first_deadline=60.0)
    first = before = states(values(look(sampler, node)))
    start = sampler._last
    for text in (whole, "card\n".join([*cards[:2], "* hang\n" + cards[2]]), whole):
        driver.load(text)
        forget_waiting(sampler)
        for _ in range(3):
            try:
                found = states(values(look(sampler, node)))
            except BlindError:
                continue
            assert all(found[key] >= value for key, value in before.items())
            before = found
    for index in "01":
        passed = sum(value - first[key] for key, value in before.items() if key[0] == index)
        assert passed == pytest.approx(sampler._last - start)
    assert before["1", "dead"] > 0
    assert before["0", "dead"] == 0


def test_who_is_blind_says_which_error_the_kernel_told_of(driver: Driver, gpu: Make, node: Node, root: Root) -> None:
    """When NVML as a whole hangs it tells no error; the kernel's log does."""
    driver.load(build.scenario("h100"))
    root.write({"dev/kmsg": ""})
    sampler = gpu(root=str(root), deadline=1.0, first_deadline=60.0)
    look(sampler, node)
    with (root.path / "dev/kmsg").open("a") as log:
        log.write(f"4,99,{int(time.monotonic() * 1e6)},-;NVRM: Xid (PCI:0000:00:09): 119, pid=1, Timeout of GSP\n")
    driver.load("nvmlDeviceGetCount hang\n" + build.scenario("h100"))
    with pytest.raises(BlindError, match="did not answer in time; the driver reported XID 119 before"):
        look(sampler, node)
    driver.load(build.scenario("h100"))
    forget_waiting(sampler)
    assert values(look(sampler, node))["gpu_xid_errors_total", "0", "119"] == 1, (
        "it is told when the card is seen again"
    )


def states(found: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    return {key[1:]: value for key, value in found.items() if key[0] == "gpu_state_seconds_total"}
