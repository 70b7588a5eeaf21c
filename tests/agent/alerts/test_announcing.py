"""When a group is announced, when again, and what it says then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rankscope.agent.alerts.fingerprint import fingerprint
from rankscope.agent.fakes import FixedRule
from rankscope.agent.model import Finding

Nan = Callable[..., tuple[Finding, ...]]


def hot(*gpus: int) -> tuple[Finding, ...]:
    return tuple(Finding(f"GPU {gpu} is hot", gpu=str(gpu)) for gpu in gpus)


def test_fingerprints_are_those_of_alertmanager() -> None:
    """The vectors are those of Alertmanager's own template tests."""
    assert fingerprint({"job": "foo", "severity": "warning"}) == "9266ef3da838ad95"
    assert fingerprint({"severity": "critical", "job": "foo"}) == "3b15fd163d36582e"


def test_who_joins_a_group_is_announced_with_the_others_after_the_interval(make_desk: Callable[..., Any]) -> None:
    desk = make_desk(name="GpuHot", rule=FixedRule())
    desk.hold(hot(0), 1)
    assert [p["notification_reason"] for p in desk.payloads] == ["first notification"]
    desk.hold(hot(0, 1), 2)
    assert [p["notification_reason"] for p in desk.payloads] == ["first notification", "new alerts added"]
    assert [a["labels"]["gpu"] for a in desk.payloads[1]["alerts"]] == ["0", "1"]


def test_a_part_that_is_over_is_told_with_what_still_fires(make_desk: Callable[..., Any]) -> None:
    desk = make_desk(name="GpuHot", rule=FixedRule())
    desk.hold(hot(0, 1), 2)
    desk.hold(hot(1), 10)
    body = desk.payloads[-1]
    assert body["notification_reason"] == "some alerts resolved"
    assert body["status"] == "firing"
    assert [(a["labels"]["gpu"], a["status"]) for a in body["alerts"]] == [("1", "firing"), ("0", "resolved")]
    desk.hold((), 10)
    assert desk.payloads[-1]["status"] == "resolved"
    assert desk.payloads[-1]["notification_reason"] == "all alerts resolved"


def test_what_fires_on_is_repeated_with_the_newest_figures(make_desk: Callable[..., Any], nan: Nan) -> None:
    desk = make_desk()
    desk.settings = replace(desk.settings, repeat_interval=60.0)
    desk.restart()
    for step in range(100, 230):
        desk.hold(nan(0, step=step), 1)
    assert [p["notification_reason"] for p in desk.payloads] == [
        "first notification",
        "repeat interval elapsed",
        "repeat interval elapsed",
    ]
    assert desk.notes(0)["step"] == "100"
    assert int(desk.notes(1)["step"]) > 150


def test_a_problem_that_returns_before_its_end_was_told_never_ended(make_desk: Callable[..., Any], nan: Nan) -> None:
    desk = make_desk()
    desk.settings = replace(desk.settings, group_interval=60.0)
    desk.restart()
    desk.hold(nan(0), 2)
    desk.hold((), 10)
    assert desk.engine.active() == []
    desk.hold(nan(0), 100)
    assert desk.statuses == ["LossNaN firing"]


def test_common_parts_are_what_all_alerts_share(make_desk: Callable[..., Any]) -> None:
    desk = make_desk(name="GpuHot", rule=FixedRule())
    desk.hold(hot(0, 1), 1)
    (body,) = desk.payloads
    assert "gpu" not in body["commonLabels"]
    assert body["commonLabels"]["alertname"] == "GpuHot"
    assert "summary" not in body["commonAnnotations"]
    assert "runbook" in body["commonAnnotations"]


def test_the_groups_of_runs_and_of_the_node(desk: Any, nan: Nan) -> None:
    desk.hold(nan(0), 1)
    assert desk.payloads[0]["groupKey"] == '{}:{alertname="LossNaN", project="demo", run="exp-1-0a1b2c3d"}'
    desk.engine.judge("DiskPressure", FixedRule(), None, (Finding("/ is full"),), desk.now)
    desk.wait(1)
    assert desk.payloads[1]["groupKey"] == '{}:{alertname="DiskPressure", hostname="node-1"}'
    assert "run" not in desk.labels()


def test_text_of_any_length_is_bounded(desk: Any) -> None:
    desk.hold((Finding("x", description="y" * 1_000_000),), 1)
    assert len(desk.notes()["description"]) == 8000


def test_metrics_of_alerts(desk: Any, nan: Nan) -> None:
    desk.judge(())
    assert desk.samples("rule_state") == {("LossNaN", desk.run.name, "ok"): 1}
    assert desk.samples("alerts_total") == {("LossNaN", "critical"): 0}, "known before it ever fires"
    desk.hold(nan(1), 2)
    assert desk.samples("rule_state") == {("LossNaN", desk.run.name, "firing"): 1}
    assert desk.samples("alert_active") == {("LossNaN", "critical", desk.run.name, "1", ""): 1}
    assert desk.samples("alerts_total") == {("LossNaN", "critical"): 1}
    desk.hold((), 8)
    assert desk.samples("alert_active") == {}
    assert desk.samples("alerts_total") == {("LossNaN", "critical"): 1}


def test_what_the_page_shows(desk: Any, nan: Nan) -> None:
    desk.hold(nan(1), 2)
    (alert,) = desk.engine.active()
    assert (alert["state"], alert["ranks"], alert["step"], alert["value"]) == ("firing", [1], 100, "NaN")
    desk.hold((), 8)
    assert desk.engine.active() == []
    assert [a["state"] for a in desk.engine.recent()] == ["resolved"]
