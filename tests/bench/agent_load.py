"""What an agent costs with 8 ranks × 20 series × 10 steps a second, and how many points a second it can take in."""

from __future__ import annotations

import math
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from rankscope.agent.demo.stage import agent
from rankscope.agent.receivers.fake_rank import FakeRank

RANKS, SERIES, RATE, SECONDS = 8, 20, 10, 20
NAMES = ["loss", "lr", "grad_norm", *(f"metric_{i}" for i in range(SERIES - 3))]


def load(address: str, process: psutil.Process) -> tuple[float, float]:
    """Return the agent's CPU seconds a second, and its resident MiB, under a steady load."""
    ranks = [FakeRank(address, run_id="load", name="load", rank=i, world_size=RANKS) for i in range(RANKS)]
    for rank in ranks:
        rank.__enter__()
    before, started = process.cpu_times(), time.monotonic()
    for tick in range(RATE * SECONDS):
        for rank in ranks:
            rank.log(tick, {name: 2.0 + math.sin(tick + i) / 10 for i, name in enumerate(NAMES)}, {"forward": 0.05})
        time.sleep(max(0.0, started + (tick + 1) / RATE - time.monotonic()))
    after, seconds = process.cpu_times(), time.monotonic() - started
    for rank in ranks:
        rank.wait_safe()
        rank.__exit__(None, None, None)
    return (after.user + after.system - before.user - before.system) / seconds, process.memory_info().rss / 2**20


def flood(address: str, points: int = 1_000_000, rows: int = 500) -> float:
    """Return points a second from one rank that sends as fast as it can, until all are on disk."""
    clock = time.monotonic_ns()
    with FakeRank(address, run_id=f"flood-{clock}", name="flood") as rank:
        values = [0.5] * (rows * 5)
        started = time.perf_counter()
        for first in range(0, points // 5, rows):
            steps = range(first, first + rows)
            rank.rows(steps, [clock + step * 1000 for step in steps], ["a", "b", "c", "d", "e"], values)
        rank.wait_safe(120)
        return points / (time.perf_counter() - started)


def main() -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as folder, agent(Path(folder, "runs"), {}, port=0) as running:
        address, process = f"unix:{running.socket}", psutil.Process(running.process.pid)
        idle = process.memory_info().rss / 2**20
        cpu, memory = load(address, process)
        table = Table(title=f"agent under {RANKS} ranks × {SERIES} series × {RATE} steps/s for {SECONDS} s")
        for column in ("CPU, % of a core", "resident MiB", "resident MiB at start", "threads"):
            table.add_column(column, justify="right")
        table.add_row(f"{100 * cpu:.1f}", f"{memory:.0f}", f"{idle:.0f}", str(process.num_threads()))
        console.print(table)
        rates = [flood(address) for _ in range(3)]
        peak = process.memory_info().rss / 2**20
    table = Table(
        title="ingest of 1,000,000 points from one rank, five series, until acknowledged as on disk; 3 rounds"
    )
    for column in ("points/s, median", "lowest", "highest", "resident MiB after"):
        table.add_column(column, justify="right")
    table.add_row(f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f}", f"{max(rates):,.0f}", f"{peak:.0f}")
    console.print(table)


if __name__ == "__main__":
    threading.stack_size(256 * 1024)
    main()
