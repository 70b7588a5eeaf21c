"""The integrations in real trainings with the real libraries, on two ranks, with one line added."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[3] / "sdk" / "rankscope" / "sdk" / "examples"
STEPS = 30


def trained(folder: Path, example: str, *options: str) -> list[dict[str, Any]]:
    """Run an example on two ranks; return what each rank sent, in the order of ranks."""
    captured = Path(__file__).parent / "scripts" / "captured.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(captured), str(folder), str(EXAMPLES / example), "--steps", str(STEPS), *options],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    assert [sent["dropped"] for sent in found] == [{}, {}]
    return found


def steps(sent: dict[str, Any], name: str) -> list[int]:
    return [int(step) for step, _ in sent["scalars"].get(name, [])]


@pytest.mark.e2e
def test_the_trainer_of_transformers(require_library: Callable[[str], None], tmp_path: Path) -> None:
    require_library("transformers")
    for sent in trained(tmp_path, "hf_trainer.py"):
        assert steps(sent, "loss") == [5, 10, 15, 20, 25, 30]
        assert steps(sent, "learning_rate") == [5, 10, 15, 20, 25, 30]
        assert steps(sent, "eval_loss")[0] == 20, "from version 5 on at the end, too"
        losses = [value for _, value in sent["scalars"]["loss"]]
        assert losses[-1] < losses[0]
        assert set(range(1, 31)) <= set(steps(sent, "epoch")), "every step is progress, however rarely it logs"
        for phase in ("data", "forward_backward", "optimizer"):
            assert len(set(sent["phases"][phase])) >= 29
        assert steps(sent, "update_ratio"), "the model is watched"


@pytest.mark.e2e
def test_the_trainer_of_lightning(require_library: Callable[[str], None], tmp_path: Path) -> None:
    require_library("lightning")
    for sent in trained(tmp_path, "lightning_trainer.py", "--devices", "2"):
        assert steps(sent, "train_loss") == [4, 9, 14, 19, 24, 29]
        assert steps(sent, "val_loss")
        assert set(range(30)) <= set(steps(sent, "epoch"))
        for phase in ("data", "forward", "backward", "optimizer"):
            assert len(set(sent["phases"][phase])) >= 29
        assert steps(sent, "grad_norm")
        assert sent["scalars"]["unchanged_fraction"][0][1] == 0.0


@pytest.mark.e2e
def test_a_loop_with_accelerate(require_library: Callable[[str], None], tmp_path: Path) -> None:
    require_library("accelerate")
    first, second = trained(tmp_path, "accelerate_loop.py")
    assert steps(first, "train_loss") == list(range(30))
    assert not steps(second, "train_loss"), "accelerate itself logs on the main process only"
    for sent in (first, second):
        assert steps(sent, "update_ratio")
        assert sent["ends"] == [{"reason": "finished"}]
