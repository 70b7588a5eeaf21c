"""The demo shows all of it, from an empty folder, and says plainly what is simulated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from click.testing import CliRunner

from rankscope.agent.commands import demo as command
from rankscope.agent.demo import stage

pytestmark = pytest.mark.e2e


def demo(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "rankscope.agent", "demo", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def alerts(folder: Path) -> list[tuple[str, str]]:
    """Alert name and status of everything that the run's own record says."""
    (path,) = (folder / "rankscope-demo" / "demo").glob("*/alerts.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["labels"]["alertname"], line["status"]) for line in lines]


def test_a_bad_batch_is_found_explained_and_over(tmp_path: Path) -> None:
    said = demo(tmp_path, "--steps", "90", "--fault", "nan")
    assert "simulated" in said.splitlines()[1]
    assert "rank 1 of demo-nan-" in said
    assert "a bad batch" in said, said
    assert '"version": "4"' in said
    assert f"tensorboard --logdir {tmp_path}/rankscope-demo" in said.splitlines()[-3]
    assert alerts(tmp_path)[0] == ("LossNaN", "firing")
    assert ("LossNaN", "resolved") in alerts(tmp_path)


def test_a_corrupted_shard_is_a_spike(tmp_path: Path) -> None:
    demo(tmp_path, "--steps", "300", "--fault", "spike")
    assert ("LossSpike", "firing") in alerts(tmp_path)


def test_a_healthy_training_raises_no_alarm(tmp_path: Path) -> None:
    said = demo(tmp_path, "--steps", "150")
    assert "nothing wrong" in said


def test_a_straggler_is_told_from_who_waits_for_it(tmp_path: Path) -> None:
    demo(tmp_path, "--steps", "10")  # an older run, whose folder is not where to look
    said = demo(tmp_path, "--steps", "150", "--fault", "straggler")
    assert "Straggler  rank 1 takes" in said
    (folder,) = (line.split()[-1] for line in said.splitlines() if line.startswith("the run's folder"))
    assert Path(folder).name.startswith("demo-straggler-")


def test_ranks_that_are_started_again_find_each_other_not_the_dead(running: stage.AgentProcess, tmp_path: Path) -> None:
    """What died left its address behind: one restart is enough, and nobody waits for the dead."""
    script = Path(__file__).parent / "scripts" / "dies_once.py"
    out = tmp_path / "log"
    training = stage.torchrun(running, 2, [], out, restarts=1, script=script)
    try:
        assert training.wait(120) == 0, out.read_text()
    finally:
        stage.end(training, 5.0)


def test_a_training_that_logs_nothing_more_is_ended_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PATIENCE", 20.0)  # shorter than what stands still here stands still
    arguments = ["--fault", "stall", "--steps", "10", "--runs", str(tmp_path)]
    before = signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(command.command, arguments)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "the training logged nothing for 20 s and was ended" in result.output
    assert result.exit_code == 1


@pytest.mark.parametrize(("moment", "steps", "status"), [("webhook receiver", "4000", 1), ("stays up", "10", 0)])
def test_what_it_started_ends_with_it(tmp_path: Path, moment: str, steps: str, status: int) -> None:
    """SIGTERM while it trains, and while it only serves: the port is free again, and no process is left."""
    command = [sys.executable, "-m", "rankscope.agent", "demo", "--serve", "--steps", steps]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "agent: http" in line:
                url = line.split()[1]
            if moment in line:
                break
        started = psutil.Process(process.pid).children(recursive=True)
        assert started
        process.terminate()
        assert process.wait(60) == status
    _, left = psutil.wait_procs(started, 10)
    assert left == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/-/ready")
