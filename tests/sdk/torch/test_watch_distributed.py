"""watch() under DDP and FSDP2, on several ranks, with no communication of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SHARED = ("grad_norm", "grad_norm_clipped", "weight_norm", "first_layer_grad_norm", "last_layer_grad_norm")


def trained(kind: str, folder: Path, ranks: int = 2) -> list[dict[str, Any]]:
    """Return what each rank of a job sent, in the order of ranks."""
    script = Path(__file__).parent / "scripts" / "watched.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(
        [*launch, str(script), kind, str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def numbers(rank: dict[str, Any], name: str) -> list[float]:
    return [value for _, value in rank["scalars"].get(name, [])]


@pytest.mark.e2e
def test_under_ddp_every_rank_sees_the_whole_gradient_and_which_batch_was_bad(tmp_path: Path) -> None:
    first, second = trained("ddp", tmp_path)
    for rank in (first, second):
        for name in SHARED:
            assert numbers(rank, name) == pytest.approx(rank["reference"][name][::2])
        assert [step for step, _ in rank["scalars"]["dead_fraction"]] == [0, 2, 4]
        assert not numbers(rank, "grad_norm_share")
    assert "from inputs that are not finite already" in first["text"][0]
    assert "or another rank" in second["text"][0]


@pytest.mark.e2e
@pytest.mark.parametrize(("kind", "count"), [("fsdp", 2), ("hybrid", 4)])
def test_under_fsdp2_the_shares_of_all_ranks_make_the_whole(kind: str, count: int, tmp_path: Path) -> None:
    ranks = trained(kind, tmp_path, count)
    for name in SHARED:
        shares = [numbers(rank, f"{name}_share") for rank in ranks]
        together = [math.hypot(*parts) for parts in zip(*shares, strict=True)]
        assert together == pytest.approx(ranks[0]["reference"][name][::2], rel=1e-4), name
        assert not any(numbers(rank, name) for rank in ranks)
    assert numbers(ranks[0], "grad_norm_share") != numbers(ranks[1], "grad_norm_share")
    for rank in ranks:
        assert all(value > 0 and math.isfinite(value) for value in numbers(rank, "update_ratio"))
        assert "it would take communication" in rank["text"][0]
