"""One problem on many ranks is one message."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from rankscope.agent.demo.stage import agent
from rankscope.agent.demo.webhooks import Webhooks
from rankscope.agent.receivers.fake_rank import FakeRank

pytestmark = pytest.mark.e2e


def test_eight_ranks_with_the_same_nan_are_one_notification_that_names_them(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        webhooks = stack.enter_context(Webhooks())
        running = stack.enter_context(agent(tmp_path, {"notifiers": {"webhook": [{"url": webhooks.url}]}}, port=0))
        ranks = [
            stack.enter_context(FakeRank(f"unix:{running.socket}", run_id="eight", rank=i, world_size=8))
            for i in range(8)
        ]
        for step in range(20):
            for rank in ranks:
                rank.log(step, {"loss": 2.0 if step < 10 else float("nan")})
        deadline = time.monotonic() + 20
        while not webhooks.arrivals and time.monotonic() < deadline:
            time.sleep(0.05)
        for rank in ranks:
            rank.log(20, {"loss": float("nan")})
            rank.wait_safe()
    bodies: list[dict[str, Any]] = [arrival.body for arrival in webhooks.arrivals]
    firing = [body for body in bodies if body["status"] == "firing"]
    assert len(firing) == 1
    (alert,) = firing[0]["alerts"]
    assert alert["labels"]["alertname"] == "LossNaN"
    assert "rank" not in alert["labels"]
    assert alert["annotations"]["ranks"] == "0-7"
