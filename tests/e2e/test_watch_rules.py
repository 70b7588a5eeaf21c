"""watch() feeds the rules: each fires on a training that is really broken so, and none on a healthy one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankscope.agent.demo.stage import AgentProcess, agent

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent / "scripts" / "broken.py"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentProcess, Path]]:
    folder = tmp_path_factory.mktemp("watched")
    with agent(folder / "runs", {}, port=0) as process:
        yield process, folder


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def alerts(running: tuple[AgentProcess, Path], kind: str, *launch: str) -> set[str]:
    """Train in one way; return the names of the alerts that the agent has fired by the time the run is over."""
    process, folder = running
    environment = os.environ | {
        "RANKSCOPE_AGENT": f"unix:{process.socket}",
        "RANKSCOPE_SPOOL": str(folder / "spool"),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run([sys.executable, *launch, str(SCRIPT), kind], env=environment, check=True, timeout=90)
    deadline = time.monotonic() + 20
    run: Path | None = None
    while run is None or '"state": "finished"' not in (run / "run.json").read_text():
        assert time.monotonic() < deadline, "the run's end did not arrive"
        time.sleep(0.05)
        run = next((path.parent for path in (folder / "runs").glob(f"broken/{kind}-*/run.json")), None)
    said = subprocess.run(
        [sys.executable, "-m", "rankscope.agent", "diagnose", str(run), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode in (0, 1), said.stderr
    diagnosed = {str(json.loads(line)["rule"]) for line in said.stdout.splitlines()}
    path = run / "alerts.jsonl"
    while True:
        text = path.read_text() if path.exists() else ""
        fired = {name for name in diagnosed if f'"{name}"' in text}
        if fired == diagnosed or time.monotonic() > deadline:
            return fired
        time.sleep(0.05)


def test_a_healthy_training_is_left_in_peace(running: tuple[AgentProcess, Path]) -> None:
    assert alerts(running, "healthy") == set()


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("dead", "DeadActivations"),
        ("saturated", "SaturatedActivations"),
        ("frozen", "FrozenParameters"),
        ("update", "UpdateRatioOutOfRange"),
        ("vanishing", "GradientVanishing"),
        ("explosion", "GradientExplosion"),
        ("scale", "LossScaleCollapse"),
        ("rate", "LearningRateAnomaly"),
    ],
)
def test_a_broken_training_is_named(running: tuple[AgentProcess, Path], kind: str, rule: str) -> None:
    assert rule in alerts(running, kind)


def test_the_shares_of_a_sharded_model_reach_the_rules_as_one_norm(running: tuple[AgentProcess, Path]) -> None:
    """No rank logs `grad_norm`: the agent adds up what each has of it."""
    assert "GradientExplosion" in alerts(running, "sharded", *TORCHRUN)
