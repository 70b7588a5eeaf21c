"""The wall clock of a node is set while a rank, its sender and the agent run: nothing comes of it but a count."""

from __future__ import annotations

import math
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from rankscope.agent.fakes import Inbox, inbox
from tests.waiting import wait_for

from .chaos import Wall, World

pytestmark = pytest.mark.e2e

HOUR = 3600


@pytest.fixture
def wall(tmp_path: Path, require: Callable[..., str]) -> Wall:
    require("gcc", why="to build a wall clock that can be set")
    return Wall(tmp_path)


@pytest.fixture
def box() -> Iterator[Inbox]:
    with inbox() as made:
        yield made


@pytest.fixture
def world(wall: Wall, box: Inbox) -> Iterator[World]:
    made = World(f"notifiers: {{webhook: [{{url: '{box.url}'}}]}}\n", wall.environment)
    yield made
    made.close()


def page(world: World) -> str:
    """Return what the agent exports now."""
    found = re.search(r"(http://[\d.:]+) shows the rest", (world.place / "agent.log").read_text())
    assert found, "the agent does not say where its page is"
    with urllib.request.urlopen(f"{found[1]}/metrics", timeout=30) as answer:
        return cast("bytes", answer.read()).decode()


def value(world: World, name: str) -> float:
    """Return the sum of all series of a metric, NaN where there is none."""
    found = re.findall(rf"^rankscope_{name}(?:\{{.*\}})? (\S+)$", page(world), re.MULTILINE)
    return sum(map(float, found)) if found else math.nan


def told(box: Inbox) -> list[str]:
    """Return what the webhook was told, a title or a name and a status for each alert."""
    bodies = [cast("dict[str, list[dict[str, Any]]]", arrived.json()) for arrived in box.arrived]
    alerts = [alert for body in bodies for alert in body["alerts"]]
    return [f"{alert['annotations']['summary']} {alert['status']}" for alert in alerts]


def judged(world: World, box: Inbox, title: str) -> None:
    """Let the rank raise an alert of its own: once it is here, everything before it was judged and told."""
    assert world.rank is not None
    world.rank.tell(f"alert {title}")
    wait_for(lambda: f"{title} firing" in told(box), 20, f"the alert {title}; there is {told(box)}")


def times(world: World) -> list[tuple[int, float]]:
    """Return step and wall time of each point of the record."""
    return [
        (event.step, event.wall_time)
        for path in world.runs.glob("chaos/*/rank_0000/events.out.tfevents*")
        for event in EventFileLoader(str(path)).Load()
        for each in event.summary.value
        if each.tag == "series"
    ]


def test_a_clock_that_is_set_back_and_forth_changes_nothing(world: World, wall: Wall, box: Inbox) -> None:
    """No point is lost, doubled or moved; no rule fires and no alert ends; it is counted, and said once."""
    world.start_agent()
    rank = world.start_rank()
    for _ in range(8):  # of these intervals TrainingStalled learns what is usual
        rank.tell("log 25")
        wait_for(lambda: value(world, "ingest_points_total") == rank.logged, 20, "the points to arrive")
    judged(world, box, "before")
    expected = ["before firing"]
    moments = [(rank.logged, 0)]
    for title, seconds in (("forth", HOUR), ("back", -2 * HOUR), ("right", HOUR)):
        wall.jump(seconds)
        judged(world, box, title)  # no step meanwhile: a step that ended an hour ago would be a stall
        expected.append(f"{title} firing")
        rank.tell("log 200")
        wait_for(lambda: value(world, "ingest_points_total") == rank.logged, 20, "the points to arrive")
        moments.append((rank.logged, wall.moved))
        now = time.time() + wall.moved
        assert abs(value(world, "rank_last_step_timestamp_seconds") - now) < 60
        assert abs(value(world, "run_last_event_timestamp_seconds") - now) < 60
        assert value(world, "rank_up") == 1
        assert value(world, "ingest_lag_seconds") < 60
    assert value(world, "train_step_duration_seconds_sum") < 60
    assert value(world, "train_steps_total") == rank.logged
    assert value(world, "agent_clock_jumps_total") == 3
    log = (world.place / "agent.log").read_text()
    assert log.count("the clock") == 1, log
    world.settle()
    world.check()
    assert told(box) == expected
    record = times(world)
    assert [step for step, _ in record] == list(range(rank.logged))
    first = 0
    for last, moved in moments:
        assert all(abs(at - moved - time.time()) < 120 for _, at in record[first:last]), f"points {first} to {last}"
        first = last


def test_points_that_wait_while_the_clock_is_set_arrive_once_and_in_order(world: World, wall: Wall) -> None:
    """The agent is killed, the clock is set, the rank is killed, the clock is set again: the record holds it all."""
    world.start_agent()
    rank = world.start_rank()
    for jump in (-2 * HOUR, 3 * HOUR):
        rank.tell("log 500")
        world.signal_agent(signal.SIGKILL)
        wall.jump(jump)
        rank.tell("log 500")
        world.start_agent()
    rank.tell("log 500")
    rank.kill()
    wall.jump(-HOUR)
    world.settle()
    world.check()
    assert rank.logged == 2500
