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
        self.load_bytes(text.encode())

    def load_bytes(self, text: bytes) -> None:
        new = self.path.with_suffix(".new")
        new.write_bytes(text)
        os.replace(new, self.path)

    def answer(self, asked: str, answer: str) -> None:
        self.load(build.answering(self.path.read_text(), asked, answer))


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
        fields.setdefault("deadline", 60.0)  # a busy machine takes long to start a process
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


class Root:
    """A file system that a test lays out: /proc, /sys and the like."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def write(self, files: dict[str, str]) -> Root:
        for name, text in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return self

    def process(self, pid: int, parent: int = 1, name: str = "python", start: int = 500, **more: object) -> None:
        """Lay out a process; `cpu` in ticks (user, system, children's user, children's system), `resident` in pages."""
        cpu = more.get("cpu", (0, 0, 0, 0))
        assert isinstance(cpu, tuple)
        ticks = " ".join(str(each) for each in cpu)
        tail = (
            f"S {parent} 1 1 0 -1 0 0 0 0 0 {ticks} 20 0 {more.get('threads', 1)} 0 {start} 0 {more.get('resident', 0)}"
        )
        status = f"Name:\t{name}\nNSpid:\t{more.get('nspid', pid)}\nCpus_allowed:\t{more.get('cpus', 'ff')}\n"
        self.write(
            {
                f"proc/{pid}/stat": f"{pid} ({name}) {tail} 0 0",
                f"proc/{pid}/status": status,
                f"proc/{pid}/cgroup": f"0::{more.get('group', '/')}\n",
                f"proc/{pid}/cmdline": str(more.get("command", name)),
                f"proc/{pid}/limits": "Limit Soft Hard Units\nMax open files            1024     4096     files\n",
                f"proc/{pid}/mountinfo": str(more.get("mounts", "")),
                f"proc/{pid}/fd/0": "",
            }
        )


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "host")
