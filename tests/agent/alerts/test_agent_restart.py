"""A real agent is killed with a notification that nobody took, and again while an alert fires."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from rankscope.agent.demo.stage import agent
from rankscope.agent.fakes import Inbox, inbox
from rankscope.agent.receivers.fake_rank import FakeRank

pytestmark = pytest.mark.e2e


def told(box: Inbox) -> list[str]:
    """Return what the receiver took: a word for each message, once for each id."""
    words: dict[str, str] = {}
    for request in box.arrived:
        body = cast("dict[str, Any]", request.json())
        words[request.headers["webhook-id"]] = f"{body['groupLabels']['alertname']} {body['status']}"
    return list(words.values())


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def log(rank: FakeRank, first: int, losses: list[float]) -> int:
    for step, loss in enumerate(losses, first):
        rank.log(step, {"loss": loss})
    return first + len(losses)


def test_nothing_is_lost_and_nothing_is_said_twice(tmp_path: Path) -> None:
    with inbox() as box:
        config: dict[str, object] = {
            "notifiers": {"webhook": [{"url": box.url}]},
            "alerts": {"resolve_after": "1s", "group_interval": "500ms"},
            "rules": {"LossNaN": {}},
        }
        box.answers = [503] * 1000
        with (
            agent(tmp_path, config, port=0) as first,
            FakeRank(f"unix:{first.socket}", run_id="nan", session=1) as rank,
        ):
            step = log(rank, 0, [2.0] * 50 + [math.nan])
            rank.wait_safe()
            until(lambda: bool(box.arrived), "the receiver is asked, and says no")
            first.process.kill()
            first.process.wait()
        box.answers.clear()
        box.arrived.clear()
        with agent(tmp_path, config, port=0) as second:
            box.wait(1, seconds=30)
            assert told(box) == ["LossNaN firing"], "delivered after the restart, though its rank is not back yet"
            with FakeRank(f"unix:{second.socket}", run_id="nan", session=2, attempt=1) as rank:
                step = log(rank, step, [math.nan] * 5)
                rank.wait_safe()
                time.sleep(1.0)  # long enough for a wrong second announcement
                second.process.kill()
                second.process.wait()
        assert told(box) == ["LossNaN firing"]
        with (
            agent(tmp_path, config, port=0) as third,
            FakeRank(f"unix:{third.socket}", run_id="nan", session=3, attempt=2) as rank,
        ):
            for _ in range(200):
                step = log(rank, step, [1.9] * 20)
                rank.wait_safe()
                if len(told(box)) > 1:
                    break
                time.sleep(0.1)
        assert told(box) == ["LossNaN firing", "LossNaN resolved"]
