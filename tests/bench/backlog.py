"""An agent that was away for ten minutes at 1,000 points a second: how the backlog comes, and what it costs."""

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

ROWS = 120_000  # of five points
TRAINING = """
import sys, time
from rankscope import sdk
sdk.init(project="bench", name="backlog")
for step in range(ROWS):
    sdk.log(step=step, loss=1.0, lr=0.1, grad_norm=2.0, tokens=3.0, seconds=4.0)
print("logged", flush=True)
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
        code = TRAINING.replace("ROWS", str(ROWS))
        training = subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True)
        assert training.stdout is not None
        training.stdout.readline()
        before = [figures(training) for _ in range(6)]
        (journal,) = (folder / "spool").iterdir()
        size = sum(path.stat().st_size for path in journal.glob("*.seg")) / 2**20
        command = ["-m", "rankscope.agent", "agent", "--listen", f"unix://{folder}/agent.sock", "--log-level", "error"]
        command += ["--http", "127.0.0.1:0", "--runs", f"{folder}/runs"]
        agent = subprocess.Popen([sys.executable, *command])
        while not list(folder.glob("runs/bench/*/rank_0000/*")):
            time.sleep(0.01)
        begin, used, during = time.monotonic(), cpu(agent.pid), []
        while len(list(journal.glob("*.seg"))) > 1:
            during.append(figures(training))
        took = time.monotonic() - begin
        spent = cpu(agent.pid) - used
        training.kill()
        training.wait()
        agent.send_signal(signal.SIGTERM)
        agent.wait()
    table = Table(title=f"a backlog of {ROWS * 5:,} points ({size:.0f} MB)")
    table.add_column("")
    table.add_column("figure", justify="right")
    table.add_row("delivered in", f"{took:.1f} s, {ROWS * 5 / took / 1e3:.0f}k points/s")
    table.add_row("CPU of the agent", f"{spent:.1f} s, {100 * spent / took:.0f} % of a core")
    for name, rounds in (("agent absent", before), ("while it is delivered", during)):
        middle, high = (statistics.median(values) for values in zip(*rounds, strict=True))
        table.add_row(f"a training step, {name}", f"{middle:.2f} ms, p99 {high:.2f} ms")
    Console(width=100).print(table)


def figures(training: subprocess.Popen[str]) -> tuple[float, float]:
    """Return median and 99th percentile of the training's steps of the last half second, ms."""
    assert training.stdout is not None
    middle, high = training.stdout.readline().split()
    return float(middle), float(high)


def cpu(pid: int) -> float:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


if __name__ == "__main__":
    main()
