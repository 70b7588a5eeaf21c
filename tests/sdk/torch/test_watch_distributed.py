"""watch() under DDP and FSDP2, on two ranks, with no communication of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def trained(kind: str) -> list[dict[str, Any]]:
    """Return what each rank of a job of two sent, in the order of ranks."""
    script = Path(__file__).parent / "scripts" / "watched.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(script), kind],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if "SENT " in line]
    found: list[dict[str, Any]] = [json.loads(line.partition("SENT ")[2]) for line in lines]
    return sorted(found, key=lambda one: int(one["rank"]))


@pytest.mark.e2e
def test_under_ddp_every_rank_sees_the_whole_gradient_and_which_batch_was_bad() -> None:
    first, second = trained("ddp")
    for rank in (first, second):
        assert [value for _, value in rank["grad_norm"]] == pytest.approx(rank["norms"][::2])
        assert [step for step, _ in rank["dead_fraction"]] == [0, 2, 4]
    assert first["norms"] == second["norms"]
    assert "from inputs that are not finite already" in first["text"][0]
    assert "or another rank" in second["text"][0]


@pytest.mark.e2e
def test_under_fsdp2_every_rank_sees_its_share() -> None:
    first, second = trained("fsdp")
    for rank in (first, second):
        assert [value for _, value in rank["grad_norm"]] == pytest.approx(rank["norms"][::2])
        assert all(value > 0 and math.isfinite(value) for _, value in rank["update_ratio"])
        assert "it would take communication" in rank["text"][0]
    assert first["norms"] != second["norms"]
