"""The agent comes and goes in mid-run: ranks reconnect by themselves, and the run goes on as the same run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_for

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent / "scripts" / "tiny.py"
STEPS = 200


@contextlib.contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An agent on the socket `folder/agent.sock`, killed at the end if it still runs."""
    command = [sys.executable, "-m", "rankscope.agent", "agent", "--http", "127.0.0.1:0"]
    command += ["--listen", f"unix://{folder}/agent.sock", "--runs", str(folder / "runs")]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def told(folder: Path, rank: int) -> list[float]:
    """The losses that a rank says it logged."""
    path = folder / f"logged_{rank}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["loss"] for line in lines if line.endswith("}")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_every_point_is_recorded_once_though_the_agent_ended_twice(tmp_path: Path, number: signal.Signals) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    environment = os.environ | {
        "RANKSCOPE_AGENT": f"unix:{tmp_path}/agent.sock",
        "RANKSCOPE_SPOOL": str(tmp_path / "spool"),
        "OMP_NUM_THREADS": "1",
    }
    arguments = [str(SCRIPT), str(tmp_path), str(STEPS), "-1", "-1", "0.04"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    training = subprocess.Popen([*launcher, *arguments], env=environment)
    try:
        for until in (STEPS // 4, STEPS // 2):
            with started(tmp_path) as agent:
                wait_for(lambda until=until: len(told(tmp_path, 0)) >= until)  # type: ignore[misc]
                agent.send_signal(number)
                agent.wait(60)
        with started(tmp_path):
            assert training.wait(60) == 0
            wait_for(lambda: not list((tmp_path / "spool").glob("*/")))
    finally:
        training.kill()
        training.wait()
    (run,) = (tmp_path / "runs" / "e2e").iterdir()
    for rank in (0, 1):
        events = EventAccumulator(str(run / f"rank_{rank:04d}"), size_guidance={"scalars": 0})
        events.Reload()
        scalars = events.Scalars("loss")
        assert [s.step for s in scalars] == list(range(STEPS))
        assert [s.value for s in scalars] == pytest.approx(told(tmp_path, rank))
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "finished"
    assert {attempt["attempt"] for attempt in record["attempts"]} == {0}
