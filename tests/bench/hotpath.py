"""What a call of `log()` costs the training, beside the tools that people use today, in one run.

`python tests/bench/hotpath.py [--rounds 5] [--peers]`: contestants take turns, each in a process of its own; peers run
in environments under `.peers/`, made here from the registry with `--peers`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Generator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from rankscope.agent.demo.stage import AgentProcess, agent

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".peers"
PROXY = Path(__file__).parent / "peers" / "proxy.py"
COLUMNS = {
    "median": "call",
    "p99": "p99",
    "cold": "call in a step",
    "beside": "CPU beside it",
    "all": "both",
    "added": "wall time of a step",
    "memory": "memory, MB",
}
KEEPS_NOTHING = {"floor", "prometheus"}
CONTEST = Path(__file__).parent / "peers" / "contest.py"
OURS = {
    "floor": "floor: keywords into a memory map",
    "rankscope": "rankscope",
    "rankscope_phases": "rankscope, three phases and log()",
    "rankscope_no_agent": "rankscope, agent absent",
    "rankscope_stopped_agent": "rankscope, agent stopped (SIGSTOP)",
    "rankscope_slow_agent": "rankscope, agent that answers after 10 s",
    "rankscope_reset_agent": "rankscope, every connection reset after 1 s",
    "rankscope_thread": "rankscope, sender as a thread (rejected)",
    "rankscope_appended": "rankscope, append instead of a map (network disks)",
    "rankscope_disabled": "rankscope, RANKSCOPE_MODE=disabled",
    "rankscope_phase": "rankscope, one phase()",
    "tensorboard": "TensorBoard's SummaryWriter",
}
REGISTRY = {
    "wandb": "wandb",
    "trackio": "trackio",
    "swanlab": "swanlab",
    "aim": "aim",
    "mlflow": "mlflow",
    "prometheus": "prometheus_client",
}


def prepare() -> None:
    """Make an environment for each peer."""
    for name, package in REGISTRY.items():
        place = PEERS / name
        if not (place / "bin" / "python").exists():
            venv.create(place, with_pip=True)
        subprocess.run([place / "bin" / "python", "-m", "pip", "install", "-q", package], check=False)


def run(name: str, running: AgentProcess, folder: Path) -> dict[str, float] | None:
    """Return the figures of one contestant; None where it cannot run here."""
    python = PEERS / name / "bin" / "python" if name in REGISTRY else Path(sys.executable)
    if not python.exists():
        return None
    spool = tempfile.mkdtemp(dir=folder)  # its own: senders also deliver what others left behind
    with reached(name, running, folder) as socket:
        environ = {**os.environ, "RANKSCOPE_AGENT": f"unix:{socket}", "RANKSCOPE_SPOOL": spool}
        command: list[str | Path] = [python, CONTEST, name]
        try:
            done = subprocess.run(
                command, env=environ, cwd=folder, capture_output=True, text=True, timeout=120, check=False
            )
        except subprocess.TimeoutExpired:
            return None
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"median"')]
    if not lines:
        sys.stderr.write(f"{name}: {done.stderr.strip().splitlines()[-1:]}\n")
        return None
    figures: dict[str, float] = json.loads(lines[-1])
    return {**figures, "all": figures["cold"] + figures["beside"]}


@contextlib.contextmanager
def reached(name: str, running: AgentProcess, folder: Path) -> Generator[str, None, None]:
    """Give the socket at which a contestant finds the agent, in the trouble that its name tells of."""
    trouble = name.removeprefix("rankscope_").removesuffix("_agent")
    if trouble == "stopped":
        os.kill(running.process.pid, signal.SIGSTOP)
        try:
            yield running.socket
        finally:
            os.kill(running.process.pid, signal.SIGCONT)
    elif trouble in ("slow", "reset"):
        socket = f"{folder}/{trouble}.sock"
        proxy = subprocess.Popen([sys.executable, PROXY, socket, running.socket, trouble], stdout=subprocess.PIPE)
        assert proxy.stdout is not None
        proxy.stdout.readline()
        try:
            yield socket
        finally:
            proxy.kill()
            proxy.communicate()
            Path(socket).unlink()
    else:
        yield f"{folder}/nobody.sock" if trouble == "no" else running.socket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="fetch the peers first")
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    if given.peers:
        prepare()
    labels = {name: label for name, label in (OURS | REGISTRY).items() if not given.only or name in given.only}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in labels}
    with tempfile.TemporaryDirectory(prefix="hot") as place, agent(Path(place, "runs"), {}, port=0) as running:
        turns = [name for _ in range(given.rounds) for name in random.sample(list(labels), len(labels))]
        for name in track(turns, "measuring", console=Console(stderr=True)):
            figures = run(name, running, Path(place))
            if figures is not None:
                found[name].append(figures)
            time.sleep(0.5)
    medians = {
        name: {key: statistics.median(r[key] for r in rounds) for key in COLUMNS}
        for name, rounds in found.items()
        if rounds
    }
    table = Table(
        title=f"five scalars a call, µs, medians of {given.rounds} rounds; steps of 2 ms", caption=told(medians)
    )
    table.add_column("")
    for column in COLUMNS.values():
        table.add_column(column, justify="right")
    for name, label in labels.items():
        cells = [f"{cell:.2f}" if cell < 10 else f"{cell:.0f}" for cell in medians.get(name, {}).values()]
        table.add_row(label, *(cells or ["not here"] * len(COLUMNS)))
    Console(width=140).print(table)


def told(medians: dict[str, dict[str, float]]) -> str | None:
    """Return how ours stands beside the floor and the cheapest peer that keeps what it is given."""
    ours, floor = medians.get("rankscope"), medians.get("floor")
    peers = {
        name: figures["all"]
        for name, figures in medians.items()
        if name not in KEEPS_NOTHING and not name.startswith("rankscope")
    }
    if ours is None or floor is None:
        return None
    tight, cold = (ours[key] / floor[key] for key in ("median", "cold"))
    said = f"a call takes {tight:.1f} times the floor, in a step {cold:.1f} times"
    if peers:
        least = min(peers, key=lambda name: peers[name])
        said += f"; {least}, the cheapest peer that stores, takes {peers[least] / ours['all']:.1f} times ours in all"
    return said


if __name__ == "__main__":
    main()
