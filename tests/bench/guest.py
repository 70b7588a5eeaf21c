"""What the SDK is as a guest: import, init, finish, memory, the idle sender, how soon a point is at the agent."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.sdk.server import Agent
from tests.waiting import wait_for

ROUNDS = 7
BEGIN = """
import time
begin = time.perf_counter()
from rankscope import sdk
sdk.init(project="bench", name="guest")
print(time.perf_counter() - begin)
"""
FINISH = """
for step in range(2000):
    sdk.log(loss=1.0)
    time.sleep(0.0005)
begin = time.perf_counter()
sdk.finish()
print(time.perf_counter() - begin)
"""
IDLE = """
import os, sys
from rankscope.sdk import _runtime
sdk.log(loss=1.0)
time.sleep(2)
print(_runtime.running.helper.pid, flush=True)
sys.stdin.readline()
"""
STEPS = """
for step in range(500):
    sdk.log(loss=1.0)
    time.sleep(0.01)
"""


def run(code: str, agent: Agent | None, folder: Path) -> list[float]:
    environ = {**os.environ, "RANKSCOPE_SPOOL": f"{folder}/spool"}
    environ["RANKSCOPE_AGENT"] = agent.address if agent else f"unix:{folder}/nobody"
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def memory(pid: int) -> tuple[float, float]:
    """Return resident and proportional memory of a process, MB."""
    sizes = {
        line.split(":")[0]: line.split()[1] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    }
    return int(sizes["Rss"]) / 1024, int(sizes["Pss"]) / 1024


def bare(code: str) -> float:
    """Return the resident memory of an interpreter after some imports, MB."""
    program = f"{code}\nimport sys; print(flush=True); sys.stdin.readline()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        return memory(process.pid)[0]
    finally:
        process.kill()


def idle(agent: Agent, folder: Path) -> tuple[float, float, float]:
    """Return the idle sender's share of a core, and the memory of rank and sender, MB."""
    environ = {**os.environ, "RANKSCOPE_SPOOL": f"{folder}/spool", "RANKSCOPE_AGENT": agent.address}
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + IDLE], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    sender = int(process.stdout.readline())
    before, begin = cpu(sender), time.perf_counter()
    time.sleep(5)
    share = (cpu(sender) - before) / (time.perf_counter() - begin)
    figures = share, memory(process.pid)[0], memory(sender)[0]
    process.communicate("\n", timeout=10)
    return figures


def cpu(pid: int) -> float:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def main() -> None:
    table = Table(title=f"the SDK as a guest, medians of {ROUNDS} rounds")
    table.add_column("")
    table.add_column("figure", justify="right")
    with tempfile.TemporaryDirectory(prefix="gu") as place:
        folder = Path(place)
        agent = Agent(folder / "agent.sock").start()
        agent.behaviour.heartbeat = 5.0
        begun = statistics.median(run(BEGIN, agent, folder)[0] for _ in range(ROUNDS))
        table.add_row("import and init()", f"{begun * 1e3:.0f} ms")
        there = statistics.median(run(BEGIN + FINISH, agent, folder)[1] for _ in range(ROUNDS))
        table.add_row("finish(), agent there", f"{there * 1e3:.0f} ms")
        absent = statistics.median(run(BEGIN + FINISH, None, folder)[1] for _ in range(3))
        table.add_row("finish(), agent absent", f"{absent * 1e3:.0f} ms")
        agent.behaviour.ack = False
        silent = statistics.median(run(BEGIN + FINISH, agent, folder)[1] for _ in range(3))
        table.add_row("finish(), agent never acknowledges", f"{silent * 1e3:.0f} ms")
        agent.behaviour.ack = True
        agent.sessions.clear()
        run(BEGIN + STEPS, agent, folder)
        wait_for(lambda: any(len(kept.rows) == 500 for kept in agent.sessions.values()))
        kept = next(kept for kept in agent.sessions.values() if len(kept.rows) == 500)
        late = sorted(a - t for a, t in zip(kept.arrived, kept.times, strict=True))[: -len(kept.rows) // 10]
        table.add_row("log() → agent, median", f"{statistics.median(late) * 1e3:.0f} ms")
        share, rank, sender = idle(agent, folder)
        table.add_row("sender while nothing is logged", f"{share * 100:.2f} % of a core")
        table.add_row("memory of the rank, more than a bare interpreter", f"{rank - bare(''):.1f} MB")
        table.add_row(
            "memory of the sender, more than a bare interpreter with grpc.aio",
            f"{sender - bare('import grpc.aio'):.1f} MB",
        )
        agent.stop()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
