"""A spool of the test's own, a small real agent, and scripts that use the SDK in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from .server import Agent

Script: TypeAlias = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="rs") as folder:
        yield Path(folder)


@pytest.fixture
def spool(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = short / "spool"
    monkeypatch.setenv("RANKSCOPE_SPOOL", str(path))
    return path


@pytest.fixture
def agent(short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    running = Agent(short / "agent.sock").start()
    monkeypatch.setenv("RANKSCOPE_AGENT", running.address)
    yield running
    running.stop()


@pytest.fixture
def script(short: Path, spool: Path) -> Iterator[Script]:
    """Start Python code in a process; whatever of it still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *, flags: tuple[str, ...] = (), **environ: str) -> subprocess.Popen[str]:
        path = short / f"script{len(started)}.py"
        path.write_text(textwrap.dedent(code))
        process = subprocess.Popen(
            [sys.executable, *flags, str(path)],
            env={**os.environ, "RANKSCOPE_AGENT": f"unix:{short}/agent.sock", **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
