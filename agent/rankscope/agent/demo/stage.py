"""The processes of the demo: a real agent and a real torchrun job, each ended with the demo."""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import psutil
import yaml


class StageError(Exception):
    """Something of the demo did not start; the message says what and what to do."""


def has_gpu() -> bool:
    """True where NVIDIA's driver is installed."""
    return ctypes.util.find_library("nvidia-ml") is not None


def example() -> Path:
    """Return the training script. Raises StageError where the distribution is incomplete."""
    spec = importlib.util.find_spec("rankscope")
    for root in spec.submodule_search_locations if spec and spec.submodule_search_locations else ():
        path = Path(root, "sdk", "examples", "torchrun_ddp.py")
        if path.exists():
            return path
    raise StageError("the example torchrun_ddp.py is missing: pip install --force-reinstall rankscope")


@dataclass
class AgentProcess:
    """A running agent: its addresses, its log."""

    process: subprocess.Popen[bytes]
    url: str
    socket: str
    log: Path


@contextlib.contextmanager
def agent(runs: Path, config: dict[str, object], port: int = 9780) -> Generator[AgentProcess, None, None]:
    """Run `rankscope agent` on a socket of its own and on `port`, or on a free one where that is taken."""
    with tempfile.TemporaryDirectory(prefix="rankscope-") as folder:
        here = Path(folder)
        path = here / "agent.sock"
        address = f"127.0.0.1:{port if port and _free(port) else free_port()}"
        alerts = {"external_url": f"http://{address}"} | cast("dict[str, object]", config.get("alerts", {}))
        settings = config | {
            "http": {"listen": address},
            "alerts": alerts,
            "grpc": {"listen": f"unix://{path}"},
            "runs": {"dir": str(runs)},
            "journals": {"folders": [str(here / "spool")]},
        }
        (here / "rankscope.yaml").write_text(yaml.safe_dump(settings))
        log = here / "agent.log"
        command = [sys.executable, "-m", "rankscope.agent", "agent", "--config", str(here / "rankscope.yaml")]
        with server("the agent", command, f"http://{address}", log) as process:
            yield AgentProcess(process, f"http://{address}", str(path), log)


@contextlib.contextmanager
def server(
    name: str, command: Sequence[str], url: str, log: Path, patience: float = 30.0
) -> Generator[subprocess.Popen[bytes], None, None]:
    """Run a server from when it says at `url`/-/ready that it is ready until the block ends.

    What it prints goes to `log`. Raises StageError with its last words where it is not ready after `patience` seconds.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(command, stderr=out, stdout=out, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + patience
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace").strip().splitlines()[-3:]
                raise StageError(f"{name} did not start: {' | '.join(last) or 'it said nothing'}")
            time.sleep(0.05)
        yield process
    finally:
        end(process, 6.0)


def torchrun(
    agent: AgentProcess,
    ranks: int,
    arguments: list[str],
    out: Path,
    *,
    restarts: int = 0,
    script: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start the training: `ranks` ranks on this machine that talk to `agent`; what they print goes to `out`.

    Where ranks meet by Gloo, torchrun's own store would keep the addresses of those that died, and who is started
    again would wait for them for half an hour: each attempt therefore meets at a store of its own.
    """
    if importlib.util.find_spec("torch") is None:
        raise StageError("the demo trains with torch, which is not installed: pip install 'rankscope[demo]'")
    environment = os.environ | {
        "RANKSCOPE_AGENT": f"unix:{agent.socket}",
        "RANKSCOPE_SPOOL": str(Path(agent.socket).parent / "spool"),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*launcher, "--max-restarts", str(restarts), str(script or example()), *arguments]
    with out.open("wb") as stream:
        return subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ask a process to end; after `patience` seconds kill it, and after as many what it has left behind."""
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _outlast(family, patience)


def end_children(patience: float) -> None:
    """End the children of this process that nobody else ends: a signal came while they were being started."""
    family = psutil.Process().children(recursive=True)
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    _outlast(family, patience)


def _outlast(processes: list[psutil.Process], patience: float) -> None:
    """Wait for processes that are about to end; kill those that are there after `patience` seconds."""
    _, left = psutil.wait_procs(processes, patience)
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=1.0).status_code == 200
    except httpx.TransportError:
        return False


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
