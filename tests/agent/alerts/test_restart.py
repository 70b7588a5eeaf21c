"""The engine is killed and starts again: nothing is announced twice, nothing is forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankscope.agent.fakes import FixedRule
from rankscope.agent.model import Finding, Incomplete, Span

Nan = Callable[..., tuple[Finding, ...]]


def test_what_was_firing_is_not_announced_again_but_still_resolved(
    make_desk: Callable[..., Any], nan: Nan, tmp_path: Path
) -> None:
    desk = make_desk(folder=tmp_path)
    desk.hold(nan(0, 1), 3)
    desk.restart()
    desk.hold(Incomplete("no data yet"), 5)
    desk.hold(nan(0, 1), 5)
    assert desk.statuses == ["LossNaN firing"]
    desk.restart()
    desk.hold((), 10)
    assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]
    assert desk.alerts[0]["fingerprint"] == desk.alerts[1]["fingerprint"]
    assert desk.notes(1)["value"] == "NaN", "the evidence survives as well"


def test_an_alert_that_had_no_time_to_be_announced_is_announced_after_the_restart(
    make_desk: Callable[..., Any], nan: Nan, tmp_path: Path
) -> None:
    desk = make_desk(folder=tmp_path)
    desk.judge(nan(0))
    desk.engine.tick(desk.now)
    desk.restart()
    desk.wait(0.5)
    assert desk.statuses == ["LossNaN firing"]


def test_a_notification_that_nobody_took_over_is_handed_out_again_under_its_id(
    make_desk: Callable[..., Any], nan: Nan, tmp_path: Path
) -> None:
    desk = make_desk(folder=tmp_path)
    desk.hold(nan(0), 1)
    desk.restart()
    desk.wait(0.2)
    assert [n.id for n in desk.sent] == [desk.sent[0].id] * 2, "queues know it by its id"


def test_an_hour_without_an_agent_counts_for_nothing(make_desk: Callable[..., Any], nan: Nan, tmp_path: Path) -> None:
    desk = make_desk(folder=tmp_path)
    rule = FixedRule(for_=Span(seconds=120))
    desk.hold(nan(0), 2)
    desk.hold(nan(0), 30, name="LossPlateau", rule=rule)
    desk.now += 3600
    desk.restart()
    desk.hold(nan(0), 1, name="LossPlateau", rule=rule)
    assert {a["state"] for a in desk.engine.active()} == {"firing", "pending"}
    assert set(desk.statuses) == {"LossNaN firing"}


def test_the_repeat_interval_goes_on(make_desk: Callable[..., Any], nan: Nan, tmp_path: Path) -> None:
    desk = make_desk(folder=tmp_path)
    desk.hold(nan(0), 3)
    desk.sent.clear()
    for _ in range(4):
        desk.now += 3500
        desk.restart()
        desk.hold(nan(0), 2)
    assert {p["notification_reason"] for p in desk.payloads} <= {"first notification"}
    desk.now += 3000
    desk.hold(nan(0), 2)
    assert desk.payloads[-1]["notification_reason"] == "repeat interval elapsed"


def test_flapping_is_remembered(make_desk: Callable[..., Any], nan: Nan, tmp_path: Path) -> None:
    desk = make_desk(folder=tmp_path)
    for _ in range(20):
        desk.hold(nan(0), 2)
        desk.hold((), 12)
        desk.restart()
        desk.hold(Incomplete("no data yet"), 1)
    assert len({n.id for n in desk.sent}) <= 6


def test_a_torn_state_is_set_aside_and_the_engine_starts(
    make_desk: Callable[..., Any], nan: Nan, tmp_path: Path
) -> None:
    (tmp_path / "alerts.json").write_text('{"version": 1, "open": [{')
    (tmp_path / "silences.json").write_text("nonsense")
    desk = make_desk(folder=tmp_path)
    desk.hold(nan(0), 1)
    assert desk.statuses == ["LossNaN firing"]
    assert (tmp_path / "alerts.json.unreadable").exists()
    assert (tmp_path / "silences.json.unreadable").exists()


def test_the_run_keeps_its_alerts(make_desk: Callable[..., Any], nan: Nan, tmp_path: Path) -> None:
    desk = make_desk(runs_dir=tmp_path)
    desk.hold(nan(0, 1), 3)
    desk.hold((), 8)
    lines = (tmp_path / "demo" / desk.run.name / "alerts.jsonl").read_text().splitlines()
    firing, resolved = (json.loads(line, parse_constant=float.fromhex) for line in lines)
    assert (firing["status"], resolved["status"]) == ("firing", "resolved")
    assert firing["value"] == "NaN"
    assert firing["ranks"] == [0, 1]
    assert firing["endsAt"] == "0001-01-01T00:00:00Z"
    assert resolved["startsAt"] == firing["startsAt"]


def test_agents_of_other_nodes_write_a_file_of_their_own(
    make_desk: Callable[..., Any], nan: Nan, tmp_path: Path
) -> None:
    """They may share the folder over a network file system, where two writers of one file lose lines."""
    desk = make_desk(runs_dir=tmp_path)
    for rank in desk.run.ranks.values():
        object.__setattr__(rank.info, "node_rank", 1)
    desk.hold(nan(0), 3)
    assert [p.name for p in (tmp_path / "demo" / desk.run.name).iterdir()] == ["alerts.node-1.jsonl"]


def test_a_folder_that_cannot_be_written_costs_the_file_and_nothing_else(
    make_desk: Callable[..., Any], nan: Nan, tmp_path: Path
) -> None:
    (tmp_path / "demo").write_text("a file where a folder should be")
    desk = make_desk(runs_dir=tmp_path)
    desk.hold(nan(0), 3)
    assert desk.statuses == ["LossNaN firing"]
