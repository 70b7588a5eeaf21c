"""A real rank, its sender and a real agent that can be killed, stopped, starved; and what must be true at the end."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.waiting import wait_for

RANK = """
import sys
from rankscope import sdk
from rankscope.sdk import _runtime
name, number = sys.argv[1], 0
sdk.init(project="chaos", name="chaos", id="chaos")
running = _runtime.running
for line in sys.stdin:
    verb, _, count = line.partition(" ")
    if verb == "log":
        for _ in range(int(count)):
            sdk.log({name: float(number)}, step=number)
            number += 1
    if verb == "alert":
        sdk.alert(count.strip())
    if verb == "finish":
        sdk.finish()
    drops = sum(running.begun.session.live.drops)
    pid = running.helper.pid if running.helper else 0
    print(number, drops, pid, flush=True)
"""


class Rank:
    """One process that logs one series, number after number."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.logged = self.dropped = self.sender = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", RANK, name],
            env=world.environment | {"RANKSCOPE_SPOOL": str(world.spool), "RANKSCOPE_AGENT": f"unix:{world.socket}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.tell("hello")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self.logged, self.dropped, self.sender = (int(part) for part in self.process.stdout.readline().split())

    def full(self, yes: bool) -> None:
        """Let no file of the rank grow any more, as a full disk does, or let them again."""
        limit = 1000 if yes else resource.RLIM_INFINITY
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def kill_sender(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.sender, signal.SIGKILL)

    def finish(self) -> None:
        self.tell("finish")
        self.kill()


class World:
    """A node: a spool, an agent with its runs, one rank after the other; `settings`: more of the agent's, as YAML."""

    def __init__(self, settings: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.environment = {**os.environ, **(environment or {})}
        self.place = Path(tempfile.mkdtemp(prefix="ch"))
        self.spool, self.socket, self.runs = self.place / "spool", self.place / "agent.sock", self.place / "runs"
        config = self.place / "agent.yaml"
        config.write_text(f"journals: {{folders: ['{self.spool}'], interval: 300ms}}\n{settings}")
        self._command = [sys.executable, "-m", "rankscope.agent", "agent", "--config", str(config)]
        self._command += ["--listen", f"unix://{self.socket}", "--http", "127.0.0.1:0", "--runs", str(self.runs)]
        self.agent: subprocess.Popen[bytes] | None = None
        self.ranks: list[Rank] = []
        self.rank: Rank | None = None

    def start_agent(self, wait: bool = True) -> None:
        with (self.place / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(self._command, stdout=log, stderr=log, env=self.environment)
        if wait:
            wait_for(self._listens, 30, "the agent")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def signal_agent(self, number: int) -> None:
        if self.agent is not None:
            self.agent.send_signal(number)
            if number in (signal.SIGKILL, signal.SIGTERM):
                self.agent.wait(60)
                self.agent = None

    def start_rank(self) -> Rank:
        self.rank = Rank(self, f"series{len(self.ranks)}")
        self.ranks.append(self.rank)
        return self.rank

    def settle(self) -> None:
        """Bring everything to a good end: all journals delivered, the agent drained."""
        if self.rank is not None and self.rank.process.poll() is None:
            self.rank.full(False)
            self.rank.finish()
        if self.agent is None:
            self.start_agent()
        self.signal_agent(signal.SIGCONT)
        wait_for(
            lambda: not any(self.spool.iterdir()) if self.spool.exists() else True, 60, "all journals to be delivered"
        )
        self.signal_agent(signal.SIGTERM)

    def record(self) -> dict[str, list[tuple[int, float]]]:
        """Return what the run's event files hold: by tag, in their order, repeats and all."""
        found: dict[str, list[tuple[int, float]]] = {}
        for path in sorted(self.runs.glob("chaos/*/rank_0000/events.out.tfevents*")):
            for event in EventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    if value.tag.startswith("series"):
                        number = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
                        found.setdefault(value.tag, []).append((event.step, number))
        return found

    def check(self) -> None:
        """Every point whose log() returned is in the record once; what was dropped was counted."""
        record = self.record()
        for rank in self.ranks:
            points = record.get(rank.name, [])
            assert len(set(points)) == len(points), f"{rank.name}: {len(points) - len(set(points))} points came twice"
            if rank.dropped == 0:
                lost = rank.logged - len(points)
                assert points[: rank.logged] == [(n, float(n)) for n in range(rank.logged)], f"{rank.name}: {lost} lost"
            else:
                assert points == sorted(points)
                assert len(points) >= rank.logged - rank.dropped, f"{rank.name}: {rank.logged}, {rank.dropped} counted"

    def close(self) -> None:
        for rank in self.ranks:
            if rank.process.poll() is None:
                rank.kill()
            rank.kill_sender()
            for pipe in (rank.process.stdin, rank.process.stdout):
                if pipe is not None:
                    pipe.close()
        if self.agent is not None:
            self.signal_agent(signal.SIGCONT)
            self.signal_agent(signal.SIGKILL)
        time.sleep(0)
        shutil.rmtree(self.place, ignore_errors=True)
