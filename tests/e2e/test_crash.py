"""A real job loses a rank, and the alert says which one; who ends a job by hand is left in peace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rankscope.agent.demo.stage import AgentProcess, agent, end
from rankscope.agent.rules.rank_crashed import PATIENCE
from tests.waiting import wait_for

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent / "scripts" / "tiny.py"
RANKS = 3


@contextlib.contextmanager
def training(running: AgentProcess, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A torchrun job that would train for an hour, once every rank has made some steps."""
    environment = os.environ | {
        "RANKSCOPE_AGENT": f"unix:{running.socket}",
        "RANKSCOPE_SPOOL": str(folder / "spool"),
        "OMP_NUM_THREADS": "1",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    arguments = [str(folder), "100000", "-1", "-1", "0.03"]  # where it writes, steps, no NaN, seconds between steps
    with (folder / "job.log").open("wb") as out:
        job = subprocess.Popen([*launcher, str(SCRIPT), *arguments], env=environment, stdout=out, stderr=out)
    try:
        wait_for(lambda: [rank["step"] is not None and rank["step"] > 5 for rank in ranks(running)] == [True] * RANKS)
        yield job
    finally:
        end(job, 10.0)


def ranks(running: AgentProcess) -> list[Any]:
    runs = httpx.get(f"{running.url}/api/v1/runs").json()["runs"]
    return [rank for run in runs for rank in run["ranks"]]


def crashes(running: AgentProcess) -> list[Any]:
    alerts = httpx.get(f"{running.url}/api/v1/alerts").json()["alerts"]
    return [alert for alert in alerts if alert["labels"]["alertname"] == "RankCrashed"]


def ended(running: AgentProcess) -> int:
    """How many ranks have said, or had said for them, how they ended."""
    return httpx.get(f"{running.url}/metrics").text.count("\nrankscope_rank_exit_info{")


def test_the_rank_that_was_killed_is_named_and_not_those_that_lost_it(tmp_path: Path) -> None:
    with agent(tmp_path / "runs", {}, port=0) as running, training(running, tmp_path):
        (victim,) = (rank["pid"] for rank in ranks(running) if rank["rank"] == 1)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: ended(running) == RANKS)
        wait_for(lambda: [alert["state"] for alert in crashes(running)] == ["firing"])
        wait_for(lambda: "ranks 0 and 2" in crashes(running)[0]["annotations"].get("description", ""))
        (alert,) = crashes(running)
        assert alert["labels"]["rank"] == "1"
        assert alert["causes"][0]["cause"] == "something killed the process"


def test_ctrl_c_is_no_crash(tmp_path: Path) -> None:
    with agent(tmp_path / "runs", {}, port=0) as running, training(running, tmp_path) as job:
        job.send_signal(signal.SIGINT)
        job.wait(60)
        wait_for(lambda: ended(running) == RANKS)
        until = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < until:  # by then even those would have been told who only followed
            assert crashes(running) == []
