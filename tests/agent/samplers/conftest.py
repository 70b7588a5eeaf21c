"""A driver that tests command, and a node with a rank on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from rankscope.agent.model import Metric, RankInfo, RankKey, Sample
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers.gpu import Gpu
from tests.nvml import build


class Sampling(Protocol):
    def sample(self, node: Node) -> object: ...


@pytest.fixture(scope="session")
def library(require: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in for libnvidia-ml.so.1."""
    require("gcc", why="to build the stand-in for NVML's library")
    return build.build(tmp_path_factory.mktemp("nvml"))


class Driver:
    """The GPUs of a machine, as a scenario that can change at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, text: str) -> None:
        """Replace the scenario at one blow, as the library may read it at any time."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.path)

    def change(self, old: str, new: str) -> None:
        text = self.path.read_text()
        assert old in text, f"the scenario has no {old!r}"
        self.load(text.replace(old, new))


@pytest.fixture
def driver(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    path = tmp_path / "gpus.scenario"
    monkeypatch.setenv("NVML_STANDIN", str(path))
    return Driver(path)


@pytest.fixture
def gpu(driver: Driver, library: Path) -> Iterator[Callable[..., Gpu]]:
    """Make samplers that read the driver, and end their processes."""
    made: list[Gpu] = []

    def make(**fields: object) -> Gpu:
        made.append(Gpu(source="nvml", library=str(library), **fields))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for sampler in made:
        sampler.close()


@pytest.fixture
def node() -> Node:
    return Node("node-1")


def attach(node: Node, pid: int, rank: int = 0, **fields: object) -> RankInfo:
    """Put a rank with this pid on the node."""
    info = RankInfo(RankKey("p", "exp-1", rank), session=100 + rank, run_id="r", pid=pid, local_rank=rank, **fields)  # type: ignore[arg-type]
    node.attach(info, time.time())
    return info


def values(samples: object) -> dict[tuple[str, ...], float]:
    """Return values by metric and label values, without uuids, so that tests read well."""
    found: dict[tuple[str, ...], float] = {}
    for sample in samples:  # type: ignore[attr-defined]
        assert isinstance(sample, Sample)
        labels = [label for name, label in zip(sample.metric.labels, sample.labels, strict=True) if name != "uuid"]
        assert isinstance(sample.value, float), f"{sample.metric.name} is {sample.value!r}"
        key = (sample.metric.name, *labels)
        assert key not in found or "mig" in key[0], f"{key} twice"
        found[key] = sample.value
    return found


def declared(metrics: tuple[Metric, ...], samples: object) -> bool:
    """Say whether all samples are of metrics that the sampler says it can give."""
    return {sample.metric for sample in samples} <= set(metrics)  # type: ignore[attr-defined]


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
