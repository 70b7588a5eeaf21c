"""A process that hangs in the kernel outlives SIGKILL: the freezer of control groups version 1 makes real ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._nvml.source import MAX_STUCK, BlindError
from rankscope.agent.samplers.gpu import Gpu
from tests.agent.samplers.conftest import Driver, values
from tests.agent.samplers.test_gpu_trouble import forget_waiting, look, pid_of
from tests.nvml import build
from tests.waiting import wait_for

Make = Callable[..., Gpu]


class Freezer:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def freeze(self, pid: int) -> None:
        (self._folder / "cgroup.procs").write_text(str(pid))
        (self._folder / "freezer.state").write_text("FROZEN")
        wait_for(lambda: (self._folder / "freezer.state").read_text() == "FROZEN\n")

    def thaw(self) -> None:
        (self._folder / "freezer.state").write_text("THAWED")


@pytest.fixture
def freezer() -> Iterator[Freezer]:
    folder = Path("/sys/fs/cgroup/freezer", f"rankscope-{os.getpid()}")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no freezer of control groups version 1 that this user may use: {error}")
    made = Freezer(folder)
    yield made
    made.thaw()
    wait_for(lambda: not (folder / "cgroup.procs").read_text())
    folder.rmdir()


def test_a_process_that_cannot_be_killed_is_neither_waited_for_nor_followed_by_many(
    driver: Driver, gpu: Make, node: Node, freezer: Freezer
) -> None:
    driver.load(build.several("h100", 2))
    sampler = gpu(deadline=2.0, first_deadline=2.0)
    stuck: list[int] = []
    for _ in range(MAX_STUCK):
        found = values(look(sampler, node))
        assert [found["gpu_up", index] for index in "01"] == [1, 1], "the next process sees the cards"
        pid = pid_of(sampler)
        assert pid is not None
        freezer.freeze(pid)
        stuck.append(pid)
        with pytest.raises(BlindError, match="did not answer in time"):
            look(sampler, node)
        assert sampler._nvml is not None
        sampler._nvml._starts.until = 0.0
    assert all(os.path.exists(f"/proc/{pid}") for pid in stuck), "SIGKILL ended none of them"
    with pytest.raises(BlindError, match=f"{MAX_STUCK} processes hang in the driver and cannot be ended"):
        look(sampler, node)
    freezer.thaw()
    forget_waiting(sampler)
    assert values(look(sampler, node))["gpu_up", "0"] == 1
    assert not any(os.path.exists(f"/proc/{pid}") for pid in stuck), "dead and buried"


def test_the_sampler_ends_beside_a_process_that_cannot_be_killed(
    driver: Driver, gpu: Make, node: Node, freezer: Freezer
) -> None:
    driver.load(build.scenario("h100"))
    sampler = gpu()
    look(sampler, node)
    pid = pid_of(sampler)
    assert pid is not None
    freezer.freeze(pid)
    sampler.close()
    assert os.path.exists(f"/proc/{pid}"), "it was not waited for"
    freezer.thaw()
