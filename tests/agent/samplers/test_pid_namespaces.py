"""Ranks and agents in PID namespaces of their own, as containers have them: real ones, which root may make."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import psutil
import pytest

from rankscope.agent.runs.state import Node
from rankscope.agent.samplers.gpu import Gpu
from rankscope.agent.samplers.process import Process
from tests.agent.samplers.conftest import Driver, attach, values
from tests.nvml import build

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace of one's own needs root")

Make = Callable[..., Gpu]
CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
RANK = (
    "import os; from rankscope.sdk._identity import start_ticks; print(os.getpid(), start_ticks(os.getpid())); input()"
)


@contextlib.contextmanager
def contained() -> Generator[tuple[int, int, int], None, None]:
    """Run a rank as the first process of a container; give its pid outside, and pid and start as it tells them."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*CONTAINER, sys.executable, "-uc", RANK], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        pid, start = (int(word) for word in process.stdout.readline().split())
        (outside,) = psutil.Process(process.pid).children()
        yield outside.pid, pid, start
        process.kill()


def test_ranks_of_containers_are_matched_with_the_pids_that_the_driver_tells(
    driver: Driver, gpu: Make, node: Node
) -> None:
    """Both are pid 1 where they are, and a stranger is pid 1 of the host."""
    with contained() as (first, pid, start), contained() as (second, other, later):
        assert pid == other == 1
        attach(node, pid, rank=0, pid_start_ticks=start)
        attach(node, other, rank=1, pid_start_ticks=later)
        processes = f"process {first} compute 1000 30\nprocess {second} compute 2000 40\nprocess 1 compute 4000 20\n"
        driver.load(
            "".join(line for line in build.scenario("h100").splitlines(True) if "process" not in line) + processes
        )
        found = values(gpu().sample(node))
        used = {key[2:]: value for key, value in found.items() if key[0] == "gpu_process_memory_bytes"}
        assert used == {("exp-1", "0"): 1000, ("exp-1", "1"): 2000, ("", ""): 4000}
        sampler = Process()
        infos = [sample for sample in sampler.sample(node) if sample.metric.name == "rank_info"]
        pids = {
            labels["rank"]: labels["pid"]
            for labels in (dict(zip(s.metric.labels, s.labels, strict=True)) for s in infos)
        }
        assert pids == {"0": str(first), "1": str(second)}
        sampler.close()


SEEN_FROM_WITHIN = """
import json, os, sys
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers.gpu import Gpu
from tests.agent.samplers.conftest import attach, values
node = Node("n")
attach(node, int(sys.argv[1]), pid_start_ticks=int(sys.argv[2]))
sampler = Gpu(source="nvml", library=sys.argv[3], deadline=60.0)
found = values(sampler.sample(node))
sampler.close()
print(json.dumps([key[2:] for key in found if key[0] == "gpu_process_memory_bytes"]))
"""


def test_an_agent_in_a_container_knows_ranks_that_it_cannot_see(driver: Driver, library: Path) -> None:
    """By the pid that both the driver and the rank tell."""
    with subprocess.Popen(["sleep", "60"]) as rank:
        with open(f"/proc/{rank.pid}/stat") as stat:
            start = stat.read().rsplit(")", 1)[1].split()[19]
        text = "".join(line for line in build.scenario("h100").splitlines(True) if "process" not in line)
        driver.load(f"{text}process {rank.pid} compute 1000 30\n")
        command = [*CONTAINER, sys.executable, "-c", SEEN_FROM_WITHIN, str(rank.pid), start, str(library)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        rank.kill()
    assert json.loads(done.stdout) == [["exp-1", "0"]]
