"""What it costs to watch a node of 8 GPUs and 8 ranks: each sampler alone, and the agent in all."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from rankscope.agent.component import Sampler, discover
from rankscope.agent.demo.stage import agent
from rankscope.agent.model import RankInfo, RankKey
from rankscope.agent.receivers.fake_rank import FakeRank
from rankscope.agent.runs.state import Node
from tests.nvml import build

GPUS, RANKS, WORKERS, ROUNDS, SECONDS = 8, 8, 4, 50, 30
RANK = f"""
import os, time
for _ in range({WORKERS}):
    if os.fork() == 0:
        break
time.sleep(3600)
"""


@contextlib.contextmanager
def ranks() -> Generator[list[int], None, None]:
    """Run processes as a training has them: ranks, each with its DataLoader workers; give the ranks' pids."""
    made = [subprocess.Popen([sys.executable, "-c", RANK], start_new_session=True) for _ in range(RANKS)]
    try:
        yield [process.pid for process in made]
    finally:
        for process in made:
            os.killpg(process.pid, 9)
            process.wait()


def on_gpus(pids: list[int]) -> str:
    text = build.several("h100", GPUS)
    for i, pid in enumerate(pids):
        text = text.replace(f"process {4711 + i} ", f"process {pid} ")
    return text


def each(library: Path, pids: list[int]) -> Table:
    """Return what one collection of each sampler takes, and how many values it gives."""
    node = Node("bench")
    for i, pid in enumerate(pids):
        node.attach(RankInfo(RankKey("p", "bench", i), i + 1, "bench", pid=pid, local_rank=i), time.time())
    table = Table(title=f"one collection, median of {ROUNDS}; {GPUS} GPUs, {RANKS} ranks with {WORKERS} workers each")
    for column in ("sampler", "ms", "CPU ms", "values"):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    for name, kind in discover("rankscope.agent.samplers").items():
        sampler: Sampler = kind(source="nvml", library=str(library)) if name == "gpu" else kind()
        node.observe(name, sampler.sample(node), time.time())
        walls: list[float] = []
        cpus: list[float] = []
        for _ in range(ROUNDS):
            wall, cpu = time.perf_counter(), time.process_time()
            samples = tuple(sampler.sample(node))
            walls.append(1000 * (time.perf_counter() - wall))
            cpus.append(1000 * (time.process_time() - cpu))
        sampler.close()
        table.add_row(name, f"{statistics.median(walls):.2f}", f"{statistics.median(cpus):.2f}", str(len(samples)))
    return table


def whole(library: Path, pids: list[int], interval: str | None) -> Table:
    """Return what an agent takes, its NVML process included; `interval` of all samplers, None: each its own."""
    names = discover("rankscope.agent.samplers") if interval is not None else ()
    samplers: dict[str, dict[str, object]] = {name: {"interval": interval} for name in names}
    samplers.setdefault("gpu", {}).update({"source": "nvml", "library": str(library)})
    with (
        tempfile.TemporaryDirectory() as folder,
        agent(Path(folder, "runs"), {"samplers": samplers}, port=0) as running,
    ):
        address = f"unix:{running.socket}"
        with contextlib.ExitStack() as stack:
            fakes = [
                stack.enter_context(FakeRank(address, run_id="bench", rank=i, world_size=RANKS, pid=pid))
                for i, pid in enumerate(pids)
            ]
            process = psutil.Process(running.process.pid)
            step = 0

            def train(seconds: float) -> None:
                nonlocal step
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    step += 1
                    for fake in fakes:
                        fake.log(step, {"loss": 2.0, "lr": 1e-4, "grad_norm": 1.0}, {"data": 0.1, "forward": 0.4})
                    time.sleep(1.0)

            train(5)
            family = [process, *process.children(recursive=True)]
            before = [sum(each.cpu_times()[:2]) for each in family]
            started = time.monotonic()
            train(SECONDS)
            spent = time.monotonic() - started
            after = [sum(each.cpu_times()[:2]) for each in family]
            memory = [each.memory_full_info().uss / 2**20 for each in family]
            resident = [each.memory_info().rss / 2**20 for each in family]
    intervals = (
        f"every sampler at {interval}" if interval is not None else "intervals as they are by default (GPUs: 1 s)"
    )
    table = Table(title=f"the agent, {intervals}; {GPUS} GPUs, {RANKS} ranks at 1 step/s, over {spent:.0f} s")
    for column in ("process", "CPU, % of a core", "resident MiB", "of its own MiB"):
        table.add_column(column, justify="left" if column == "process" else "right")
    shares = [100 * (b - a) / spent for a, b in zip(before, after, strict=True)]
    for name, share, rss, uss in zip(
        ["agent", *["NVML process"] * len(shares)], shares, resident, memory, strict=False
    ):
        table.add_row(name, f"{share:.2f}", f"{rss:.0f}", f"{uss:.0f}")
    table.add_row("in all", f"{sum(shares):.2f}", f"{sum(resident):.0f}", f"{sum(memory):.0f}", style="bold")
    return table


def main() -> None:
    if shutil.which("gcc") is None:
        print("needs gcc to build the stand-in for NVML's library")
        return
    console = Console()
    with tempfile.TemporaryDirectory() as folder, ranks() as pids:
        library = build.build(Path(folder))
        scenario = Path(folder, "gpus.scenario")
        scenario.write_text(on_gpus(pids))
        os.environ["NVML_STANDIN"] = str(scenario)
        console.print(each(library, pids))
        console.print(whole(library, pids, None))
        console.print(whole(library, pids, "1s"))


if __name__ == "__main__":
    main()
