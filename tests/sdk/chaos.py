"""A real rank, its sender and a real agent that can be killed, stopped, starved; and what must be true at the end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.waiting import wait_for

RANK = """
import sys
from rankscope import sdk
from rankscope.sdk import _runtime
value, number = float(sys.argv[1]), 0
sdk.init(project="chaos", name="chaos", id="chaos")
running = _runtime.running
for line in sys.stdin:
    verb, _, count = line.strip().partition(" ")
    if verb == "log":
        for _ in range(int(count)):
            sdk.log(series=value, step=number)
            number += 1
    if verb == "alert":
        sdk.alert(count)
    if verb == "finish":
        sdk.finish()
    drops = sum(running.begun.session.live.drops)
    pid = running.helper.pid if running.helper else 0
    print(number, drops, pid, flush=True)
"""


class Wall:
    """The wall clock of every process of the node; CLOCK_MONOTONIC goes on. It takes gcc to build."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "wallclock.so", folder / "moved"
        source = Path(__file__).parent / "wallclock.c"
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["gcc", *flags, "-o", str(library), str(source)], check=True)
        self.environment = {"LD_PRELOAD": str(library), "RANKSCOPE_TEST_CLOCK": str(self._file)}
        self.moved = 0
        self._file.write_bytes(bytes(8))

    def jump(self, seconds: int) -> None:
        self.moved += seconds
        with self._file.open("r+b") as file:
            file.write(self.moved.to_bytes(8, "little", signed=True))


class Rank:
    """One process that logs a series from step 0 on; the value tells whose it is, for all ranks log the same one."""

    def __init__(self, world: World, number: int, attempt: int) -> None:
        self._world, self.number = world, number
        self.logged = self.dropped = self.sender = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", RANK, str(number)],
            env=world.environment
            | {"RANKSCOPE_SPOOL": str(world.spool), "RANKSCOPE_AGENT": f"unix:{world.socket}"}
            | {"RANK": "0", "TORCHELASTIC_RUN_ID": "chaos", "TORCHELASTIC_RESTART_COUNT": str(attempt)},
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
        self._world.cut = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.sender, signal.SIGKILL)

    def finish(self) -> None:
        self.tell("finish")
        self.kill()


class World:
    """A node: a spool, an agent with its runs, one rank after the other; `settings`: more of the agent's, as YAML."""

    def __init__(self, settings: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.environment = {**os.environ, **(environment or {})}
        self.cut = self._mounted = False
        self.place = Path(tempfile.mkdtemp(prefix="ch"))
        self.spool, self.socket, self.runs = self.place / "spool", self.place / "agent.sock", self.place / "runs"
        config = self.place / "agent.yaml"
        config.write_text(f"journals: {{folders: ['{self.spool}'], interval: 300ms}}\n{settings}")
        self._command = [sys.executable, "-m", "rankscope.agent", "agent", "--config", str(config)]
        self._command += ["--listen", f"unix://{self.socket}", "--http", "127.0.0.1:0", "--runs", str(self.runs)]
        self.agent: subprocess.Popen[bytes] | None = None
        self.attempt = 0
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

    def start_rank(self, again: bool = False) -> Rank:
        """Start a rank; `again`: as its job's next attempt."""
        self.attempt += again
        self.rank = Rank(self, len(self.ranks), self.attempt)
        self.ranks.append(self.rank)
        return self.rank

    def small_disk(self, size: str) -> bool:
        """Give the runs a disk of their own; False where that needs rights that we lack."""
        self.runs.mkdir()
        if os.geteuid() == 0:
            command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(self.runs)]
            self._mounted = subprocess.run(command, check=False).returncode == 0
        return self._mounted

    def fill_disk(self, yes: bool) -> None:
        """Take all room from the disk of the runs, or give it back."""
        rest = self.runs / "rest"
        rest.unlink(missing_ok=True)
        if yes:
            with rest.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))

    def settle(self) -> None:
        """Bring everything to a good end: all journals delivered, the agent drained."""
        if self.rank is not None and self.rank.process.poll() is None:
            self.rank.full(False)
            self.rank.finish()
        if self.agent is None:
            self.start_agent()
        self.signal_agent(signal.SIGCONT)
        if self._mounted:
            self.fill_disk(False)
        try:
            wait_for(lambda: not self._left(), 120, "all journals to be delivered")
        except AssertionError as error:
            log = (self.place / "agent.log").read_text(errors="replace")
            raise AssertionError(f"{error}: {self._left()} are left; the agent: {log[-3000:]}") from None
        self.signal_agent(signal.SIGTERM)

    def _left(self) -> dict[str, list[str]]:
        """Return what is left in the spool, but for what a sender was removing when it was killed."""
        found: dict[str, list[str]] = {}
        for name in os.listdir(self.spool) if self.spool.exists() else ():
            with contextlib.suppress(FileNotFoundError):  # delivered and removed meanwhile
                found[name] = sorted(os.listdir(self.spool / name))
        return {name: files for name, files in found.items() if "hello.json" in files or not self.cut}

    def record(self) -> dict[int, list[int]]:
        """Return what the run's event files hold: the steps of each rank in their order, repeats and all."""
        found: dict[int, list[int]] = {}
        for path in sorted(self.runs.glob("chaos/*/rank_0000/events.out.tfevents*")):
            for event in EventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    if value.tag == "series":
                        number = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
                        found.setdefault(int(number), []).append(event.step)
        return found

    def ends(self) -> list[str]:
        """Return how each rank ended, as the run's summary has it."""
        (path,) = self.runs.glob("chaos/*/run.json")
        sessions = cast("list[dict[str, object]]", json.loads(path.read_text())["attempts"])
        return [
            str(session["end"]) for session in sorted(sessions, key=lambda session: cast(float, session["started"]))
        ]

    def check(self) -> None:
        """Every point whose log() returned is in the record once; what was dropped was counted."""
        record = self.record()
        for rank in self.ranks:
            steps, who = record.get(rank.number, []), f"rank {rank.number} of {len(self.ranks)}"
            assert len(set(steps)) == len(steps), f"{who}: {len(steps) - len(set(steps))} points came twice"
            if rank.dropped == 0:
                assert steps[: rank.logged] == list(range(rank.logged)), f"{who}: {rank.logged - len(steps)} lost"
            else:
                assert steps == sorted(steps)
                assert len(steps) >= rank.logged - rank.dropped, f"{who}: {rank.logged}, {rank.dropped} counted"

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
        if self._mounted:
            subprocess.run(["umount", "-l", self.runs], check=True)
        shutil.rmtree(self.place, ignore_errors=True)
