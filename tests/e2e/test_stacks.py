"""A real job hangs, and one command says which rank the others wait for, and where it is."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from rankscope.agent.demo.stage import AgentProcess, agent
from tests.waiting import wait_for

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent / "scripts" / "hangs.py"
LINE = 1 + SCRIPT.read_text().splitlines().index("        os.read(os.pipe()[0], 1)")
RANKS = 3


@contextlib.contextmanager
def hanging(running: AgentProcess, folder: Path) -> Iterator[None]:
    """A torchrun job that hangs in its eleventh step."""
    environment = os.environ | {
        "RANKSCOPE_AGENT": f"unix:{running.socket}",
        "RANKSCOPE_SPOOL": str(folder / "spool"),
        "OMP_NUM_THREADS": "1",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    with (folder / "job.log").open("wb") as out:
        job = subprocess.Popen(
            [*launcher, str(SCRIPT)], env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for(lambda: steps(running) == [9] * RANKS)
        yield
    finally:
        ranks = psutil.Process(job.pid).children(recursive=True)  # in sessions of their own
        job.kill()
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.kill()
        job.wait()


def steps(running: AgentProcess) -> list[int]:
    runs = httpx.get(f"{running.url}/api/v1/runs").json()["runs"]
    return [rank["step"] for run in runs for rank in run["ranks"]]


def stacks(running: AgentProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rankscope.agent", "stacks", "--agent", running.url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_rank_that_the_others_wait_for_comes_first(tmp_path: Path) -> None:
    with agent(tmp_path / "runs", {}, port=0) as running, hanging(running, tmp_path):
        shown = stacks(running)
        assert shown.returncode == 0, shown.stderr
        first, second = shown.stdout.split("\nrank")[:2]
        assert first.startswith("rank 1 · step 9 · data")
        assert f"hangs.py:{LINE}" in first
        assert second.startswith("s 0, 2 · step 9 · backward")
        assert "all_reduce" in second

        answer: dict[str, Any] = json.loads(stacks(running, "hangs", "--rank", "1", "--json").stdout)
        assert [place["ranks"] for place in answer["places"]] == [[1]]
        assert answer["places"][0]["calls"][0]["function"] == "load"
        (told,) = answer["ranks"]
        assert Path(told["file"]).read_text() == told["text"]
        assert Path(told["file"]).parent.name == "stacks"
        assert Path(told["file"]).parent.parent.name == "rank_0001"

        assert stacks(running, "other").returncode == 2
        assert stacks(running, "hangs", "--rank", "7").stderr.endswith("is not on this node\n")


def test_when_a_run_stands_still_its_stacks_are_kept_without_being_asked_for(tmp_path: Path) -> None:
    stalled: dict[str, object] = {"rules": {"TrainingStalled": {"least": "1s", "first": "5s"}}}
    with agent(tmp_path / "runs", stalled, port=0) as running, hanging(running, tmp_path):
        wait_for(lambda: len(list(tmp_path.glob("runs/e2e/hangs-*/rank_*/stacks/*.txt"))) == RANKS)
        kept = {path.parent.parent.name: path.read_text() for path in tmp_path.glob("runs/e2e/*/rank_*/stacks/*.txt")}
        assert [name for name, text in sorted(kept.items()) if " in load" in text] == ["rank_0001"]
        wait_for(lambda: "stands still: the stacks of 3 ranks are kept" in running.log.read_text())
