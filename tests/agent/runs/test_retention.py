"""Old runs go when they are told to, and nothing else ever does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rankscope.agent.runs.clock import Clock, Reading
from rankscope.agent.runs.retention import CALM, prune

NOW = 1_790_000_000.0
DAY = 86400.0
CLOCK = Clock(lambda: Reading(NOW, time.monotonic()))


def run(root: Path, name: str, days_old: float) -> Path:
    folder = root / "project" / name
    (folder / "rank_0000").mkdir(parents=True)
    for path in (folder / "run.json", folder / "rank_0000" / "events"):
        path.write_text("{}")
        os.utime(path, (NOW - days_old * DAY, NOW - days_old * DAY))
    return folder


def test_runs_older_than_they_are_kept_are_removed(tmp_path: Path) -> None:
    old, new = run(tmp_path, "old", 91), run(tmp_path, "new", 89)
    assert prune(tmp_path, 90, CLOCK) == [old]
    assert not old.exists()
    assert new.exists()


def test_a_run_that_was_written_to_lately_stays_whatever_its_start(tmp_path: Path) -> None:
    folder = run(tmp_path, "long", 200)
    os.utime(folder / "rank_0000" / "events", (NOW, NOW))
    assert prune(tmp_path, 90, CLOCK) == []


def test_zero_keeps_everything(tmp_path: Path) -> None:
    run(tmp_path, "old", 10_000)
    assert prune(tmp_path, 0, CLOCK) == []


def test_folders_that_are_no_runs_are_not_touched(tmp_path: Path) -> None:
    folder = run(tmp_path, "mine", 1000)
    (folder / "run.json").unlink()
    assert prune(tmp_path, 1, CLOCK) == []
    assert folder.exists()


def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    elsewhere = run(tmp_path / "elsewhere", "old", 1000)
    root = tmp_path / "runs"
    (root / "project").mkdir(parents=True)
    (root / "project" / "link").symlink_to(elsewhere)
    assert prune(root, 1, CLOCK) == []
    assert elsewhere.exists()


def test_nothing_goes_while_the_clock_may_be_wrong(tmp_path: Path) -> None:
    """A clock that is a year ahead for an hour must not take the runs along; after a calm day it is believed."""
    old = run(tmp_path, "old", 1)
    readings = [Reading(NOW, 0.0), Reading(NOW + 365 * DAY, 1.0), Reading(NOW + 365 * DAY + CALM, CALM + 1.0)]
    clock = Clock(lambda: readings.pop(0) if len(readings) > 1 else readings[0])
    assert clock.look() == pytest.approx(365 * DAY - 1)
    assert prune(tmp_path, 90, clock) == []
    assert clock.look() == 0.0
    assert prune(tmp_path, 90, clock) == [old]
