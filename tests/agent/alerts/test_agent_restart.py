"""A real agent is killed with a notification that nobody took, and again while an alert fires."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest

from rankscope.agent.demo.stage import agent
from rankscope.agent.fakes import Inbox, inbox
from rankscope.agent.receivers.fake_rank import FakeRank
from rankscope.v1 import ingest_pb2
from tests.waiting import wait_for

pytestmark = pytest.mark.e2e


def told(box: Inbox) -> list[str]:
    """Return what the receiver took: a word for each message, once for each id."""
    words: dict[str, str] = {}
    for request in tuple(box.arrived):
        body = cast("dict[str, Any]", request.json())
        words[request.headers["webhook-id"]] = f"{body['groupLabels']['alertname']} {body['status']}"
    return list(words.values())


def log(rank: FakeRank, first: int, losses: list[float]) -> int:
    for step, loss in enumerate(losses, first):
        rank.log(step, {"loss": loss})
    rank.wait_safe()
    return first + len(losses)


def test_nothing_is_lost_and_nothing_is_said_twice(tmp_path: Path) -> None:
    with inbox() as box:
        config: dict[str, object] = {
            "notifiers": {"webhook": [{"url": box.url}]},
            "alerts": {"resolve_after": "1s", "group_interval": "500ms", "user_alert_lasts": "1s"},
            "rules": {"LossNaN": {}},
        }
        box.answers = [503] * 1000
        with (
            agent(tmp_path, config, port=0) as first,
            FakeRank(f"unix:{first.socket}", run_id="nan", session=1) as rank,
        ):
            step = log(rank, 0, [2.0] * 50 + [math.nan])
            wait_for(lambda: bool(box.arrived), what="the receiver to be asked, and to say no")
            first.process.kill()
            first.process.wait()
        box.answers.clear()
        box.arrived.clear()
        with agent(tmp_path, config, port=0) as second:
            box.wait(1, seconds=30)
            assert told(box) == ["LossNaN firing"], "delivered after the restart, though its rank is not back yet"
            with FakeRank(f"unix:{second.socket}", run_id="nan", session=2, attempt=1) as rank:
                step = log(rank, step, [math.nan] * 5)
                # One receiver hears everything in its order: a wrong second announcement would come before the end of
                # an alert that begins only now and that lasts longer than a group waits between two notifications.
                rank.event(step, ingest_pb2.Event(alert=ingest_pb2.Alert(title="and nothing else", severity="info")))
                wait_for(lambda: "UserAlert resolved" in told(box), what="an alert of the rank's own to end")
                second.process.kill()
                second.process.wait()
        said = ["LossNaN firing", "UserAlert firing", "UserAlert resolved"]
        assert told(box) == said
        with (
            agent(tmp_path, config, port=0) as third,
            FakeRank(f"unix:{third.socket}", run_id="nan", session=3, attempt=2) as rank,
        ):

            def mended() -> bool:
                nonlocal step
                step = log(rank, step, [1.9] * 20)
                return len(told(box)) > len(said)

            wait_for(mended, what="the end of LossNaN")
        assert told(box) == [*said, "LossNaN resolved"]
