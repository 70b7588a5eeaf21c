"""An agent that was away for ten minutes at 1,000 points a second and rank: how it all comes, and what that costs."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

RANKS = 8
ROWS = 120_000  # of five points, a rank
TRAINING = """
import sys, time
from rankscope import sdk
sdk.init(project="bench", name="backlog")
for step in range(ROWS):
    sdk.log(step=step, loss=1.0, lr=0.1, grad_norm=2.0, tokens=3.0, seconds=4.0)
print("logged", flush=True)
if IDLE: sys.stdin.readline()
figures, step = list(range(400)), ROWS
while True:
    took = []
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(400): sum(figures)
        sdk.log(step=step, loss=1.0, lr=0.1, grad_norm=2.0, tokens=3.0, seconds=4.0)
        step += 1
        took.append(time.perf_counter() - begin)
    took.sort()
    print(took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3, flush=True)
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bl") as place:
        folder = Path(place)
        environ = {**os.environ, "RANKSCOPE_SPOOL": f"{folder}/spool", "RANKSCOPE_AGENT": f"unix:{folder}/agent.sock"}
        ranks = [start(rank, environ) for rank in reversed(range(RANKS))]  # rank 0 trains, the others wait
        training = ranks[-1]
        before = [figures(training) for _ in range(6)]
        size = sum(path.stat().st_size for path in folder.glob("spool/*/*.seg")) / 2**20
        command = ["-m", "rankscope.agent", "agent", "--listen", f"unix://{folder}/agent.sock", "--log-level", "error"]
        command += ["--http", "127.0.0.1:0", "--runs", f"{folder}/runs"]
        agent = subprocess.Popen([sys.executable, *command])
        while not list(folder.glob("runs/bench/*/rank_0000/*")):
            time.sleep(0.01)
        begin, used, during = time.monotonic(), cpu(agent.pid), []
        while len(list(folder.glob("spool/*/*.seg"))) > RANKS:
            during.append(figures(training))
        took = time.monotonic() - begin
        spent = cpu(agent.pid) - used
        memory = peak(agent.pid)
        for rank in ranks:
            rank.kill()
            rank.communicate()
        agent.send_signal(signal.SIGTERM)
        agent.wait()
    points = RANKS * ROWS * 5
    table = Table(title=f"a backlog of {points:,} points of {RANKS} ranks ({size:.0f} MB)")
    table.add_column("")
    table.add_column("figure", justify="right")
    table.add_row("delivered in", f"{took:.1f} s, {points / took / 1e3:.0f}k points/s")
    table.add_row("CPU of the agent", f"{spent:.1f} s, {100 * spent / took:.0f} % of a core")
    table.add_row("memory of the agent, at most", f"{memory:.0f} MB")
    for name, rounds in (("agent absent", before), ("while it is delivered", during)):
        middle, high = (statistics.median(values) for values in zip(*rounds, strict=True))
        table.add_row(f"a training step, {name}", f"{middle:.2f} ms, p99 {high:.2f} ms")
    Console(width=100).print(table)


def start(rank: int, environ: dict[str, str]) -> subprocess.Popen[str]:
    """Return a rank that has logged all that it is to log while nobody is there."""
    code = TRAINING.replace("ROWS", str(ROWS)).replace("IDLE", str(rank > 0))
    environ = {**environ, "RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def figures(training: subprocess.Popen[str]) -> tuple[float, float]:
    """Return median and 99th percentile of the training's steps of the last half second, ms."""
    assert training.stdout is not None
    middle, high = training.stdout.readline().split()
    return float(middle), float(high)


def cpu(pid: int) -> float:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def peak(pid: int) -> float:
    """Return the most memory that a process held, MB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
