"""The page, as a browser shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rankscope.agent.demo.stage import AgentProcess
from rankscope.agent.receivers.fake_rank import FakeRank
from tests.e2e.browser import browser

pytestmark = pytest.mark.e2e

BARS = """JSON.stringify([...document.querySelectorAll("td .bar")].map(
  (bar) => [bar.title, ...[...bar.children].map((part) => part.style.width)]))"""


def test_what_is_in_no_phase_stays_empty_and_ranks_are_several(
    running: AgentProcess, require: Callable[..., str], tmp_path: Path
) -> None:
    """A tenth of a step in forward is a tenth of the bar."""
    chromium = require("chromium", "chromium-browser", "google-chrome", why="apt-get install chromium")
    second = 1_000_000_000
    steps, times = range(10), [time.monotonic_ns() + (at - 10) * second for at in range(10)]
    socket = f"unix:{running.socket}"
    with (
        FakeRank(socket, run_id="page", rank=0, world_size=2) as first,
        FakeRank(socket, run_id="page", rank=1, world_size=2) as other,
    ):
        for rank in (first, other):
            values = [number for step in steps for number in (float("nan") if step == 9 else 1.0, 0.1)]
            rank.rows(steps, times, ["loss"], values, ["forward"])
        with browser(chromium, tmp_path) as chrome:
            session = chrome.open(f"{running.url}/")
            text = chrome.wait_for(session, "ranks 0, 1")
            chrome.wait_for(session, "time by phase")
            found = chrome.call("Runtime.evaluate", session, expression=BARS, returnByValue=True)["result"]["value"]
    assert "LossNaN" in text
    assert "· ranks 0, 1" in text
    assert found == '[["forward 10 %, in no phase 90 %","10%"],["forward 10 %, in no phase 90 %","10%"]]'
