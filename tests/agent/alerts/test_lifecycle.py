"""An alert is pending, fires, and is resolved; every change is announced once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rankscope.agent.fakes import FixedRule, a_rank
from rankscope.agent.model import Cause, Finding, Incomplete, Span, UserAlert

Nan = Callable[..., tuple[Finding, ...]]


def test_a_problem_fires_at_once_and_is_announced_after_the_group_wait(desk: Any, nan: Nan) -> None:
    desk.judge(nan(3))
    desk.engine.tick(desk.now)
    assert desk.statuses == []
    desk.wait(0.3)
    assert desk.statuses == ["LossNaN firing"]


def test_what_is_understood_of_a_finding_later_is_told_with_it(desk: Any) -> None:
    first = Finding("rank 1 ended", step=7, rank=1)
    desk.judge((first,))
    desk.judge((replace(first, description="Because of it ended rank 0.", causes=(Cause("killed", "signal 9", ""),)),))
    desk.wait(0.3)
    assert desk.notes()["description"] == "Because of it ended rank 0."
    assert desk.notes()["causes"] == "killed: signal 9"


def test_it_is_announced_once_however_long_it_lasts(desk: Any, nan: Nan) -> None:
    desk.hold(nan(3), 60)
    assert desk.statuses == ["LossNaN firing"]


def test_it_is_resolved_when_it_has_been_gone_for_a_while(desk: Any, nan: Nan) -> None:
    desk.hold(nan(3), 3)
    desk.hold((), 4)
    assert desk.statuses == ["LossNaN firing"]
    desk.hold((), 3)
    assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]
    assert desk.alerts[1]["startsAt"] == desk.alerts[0]["startsAt"]
    assert str(desk.alerts[1]["endsAt"]) > str(desk.alerts[1]["startsAt"])


def test_a_gap_shorter_than_the_hysteresis_changes_nothing(desk: Any, nan: Nan) -> None:
    for _ in range(10):
        desk.hold(nan(3), 2)
        desk.hold((), 4)
    assert desk.statuses == ["LossNaN firing"]


def test_a_rule_may_say_how_long_its_condition_must_be_gone(desk: Any, nan: Nan) -> None:
    rule = FixedRule("critical", resolve_after=Span(seconds=60))
    desk.hold(nan(3), 3, rule=rule)
    desk.hold((), 55, rule=rule)
    assert desk.statuses == ["LossNaN firing"]
    desk.hold((), 10, rule=rule)
    assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]


def test_hysteresis_in_steps(desk: Any, nan: Nan) -> None:
    rule = FixedRule("critical", resolve_after=Span(steps=10))
    desk.advance(100)
    desk.hold(nan(3), 2, rule=rule)
    for step in (101, 105, 110):
        desk.advance(step)
        desk.hold((), 10, rule=rule)
    assert desk.statuses == ["LossNaN firing"]
    desk.advance(111)
    desk.hold((), 2, rule=rule)
    assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]


class TestPending:
    """`for`: how long a condition must hold."""

    def test_seconds(self, desk: Any, nan: Nan) -> None:
        rule = FixedRule(for_=Span(seconds=10))
        desk.hold(nan(0), 10, rule=rule)
        assert desk.samples("rule_state") == {("LossNaN", desk.run.name, "pending"): 1}
        assert desk.samples("alert_active") == {("LossNaN", "warning", desk.run.name, "0", ""): 0}
        desk.hold(nan(0), 2, rule=rule)
        assert desk.statuses == ["LossNaN firing"]

    def test_steps_are_counted_from_the_step_where_it_began(self, desk: Any, nan: Nan) -> None:
        rule = FixedRule(for_=Span(steps=5))
        for step in (100, 103, 104):
            desk.hold(nan(0, step=step), 30, rule=rule)
        assert desk.statuses == []
        desk.hold(nan(0, step=105), 1, rule=rule)
        assert desk.statuses == ["LossNaN firing"]
        assert desk.notes()["step"] == "105", "the step whose point made it fire"

    def test_a_metric_that_is_logged_every_tenth_step_needs_steps_not_points(self, desk: Any, nan: Nan) -> None:
        rule = FixedRule(for_=Span(steps=5))
        desk.hold(nan(0, step=100), 1, rule=rule)
        desk.hold(nan(0, step=110), 1, rule=rule)
        assert desk.statuses == ["LossNaN firing"]

    def test_a_finding_without_a_step_takes_that_of_the_run(self, desk: Any) -> None:
        rule = FixedRule(for_=Span(steps=5))
        slow = (Finding("slow"),)
        desk.advance(10)
        desk.hold(slow, 30, rule=rule)
        assert desk.statuses == []
        desk.advance(15)
        desk.hold(slow, 1, rule=rule)
        assert desk.statuses == ["LossNaN firing"]

    def test_a_resume_from_an_earlier_step_starts_the_count_anew(self, desk: Any, nan: Nan) -> None:
        rule = FixedRule(for_=Span(steps=5))
        for step in (100, 104, 50, 54):
            desk.hold(nan(0, step=step), 1, rule=rule)
        assert desk.statuses == []
        desk.hold(nan(0, step=55), 1, rule=rule)
        assert desk.statuses == ["LossNaN firing"]

    def test_a_condition_that_goes_away_leaves_no_trace(self, desk: Any, nan: Nan) -> None:
        rule = FixedRule(for_=Span(seconds=10))
        desk.hold(nan(0), 8, rule=rule)
        desk.hold((), 1, rule=rule)
        desk.hold(nan(0), 8, rule=rule)
        assert desk.statuses == []
        assert desk.samples("alerts_total") == {("LossNaN", "warning"): 0}


class TestIncomplete:
    """A rule that cannot tell neither fires nor resolves."""

    def test_it_is_a_state_of_its_own(self, desk: Any) -> None:
        desk.judge(Incomplete("no loss yet"))
        assert desk.samples("rule_state") == {("LossNaN", desk.run.name, "incomplete"): 1}

    def test_it_does_not_resolve(self, desk: Any, nan: Nan) -> None:
        desk.hold(nan(0), 2)
        desk.hold(Incomplete("no loss lately"), 600)
        assert desk.statuses == ["LossNaN firing"]
        assert desk.samples("rule_state") == {("LossNaN", desk.run.name, "firing"): 1}

    def test_its_time_counts_neither_for_firing_nor_for_resolving(self, desk: Any, nan: Nan) -> None:
        rule = FixedRule(for_=Span(seconds=10))
        desk.hold(nan(0), 5, rule=rule)
        desk.hold(Incomplete("blind"), 100, rule=rule)
        desk.hold(nan(0), 4, rule=rule)
        assert desk.statuses == []
        desk.hold(nan(0), 5, rule=rule)
        assert desk.statuses == ["LossNaN firing"]
        desk.hold((), 3, rule=rule)
        desk.hold(Incomplete("blind"), 100, rule=rule)
        desk.hold((), 1, rule=rule)
        assert desk.statuses == ["LossNaN firing"]


class TestFlapping:
    """An alert that comes and goes is announced less and less."""

    def test_each_return_doubles_the_quiet_that_it_takes(self, desk: Any, nan: Nan) -> None:
        for _ in range(60):
            desk.hold(nan(0), 2)
            desk.hold((), 12)
        assert len(desk.statuses) <= 6, "60 times on and off within 14 minutes"
        assert "times" in desk.notes(-1)["description"]

    def test_an_hour_later_it_is_forgiven(self, desk: Any, nan: Nan) -> None:
        for _ in range(5):
            desk.hold(nan(0), 2)
            desk.hold((), 100)
        desk.sent.clear()
        desk.hold((), 3600)
        desk.hold(nan(0), 2)
        desk.hold((), 10)
        assert desk.statuses[-2:] == ["LossNaN firing", "LossNaN resolved"]


class TestSeverity:
    """An alert that gets worse is announced as a graver one; one that gets better keeps its severity."""

    def test_worse(self, desk: Any) -> None:
        rule = FixedRule("warning")
        desk.hold((Finding("GPU at 85 °C"),), 5, name="GpuHot", rule=rule)
        desk.hold((Finding("GPU at 95 °C", severity="critical"),), 5, name="GpuHot", rule=rule)
        assert desk.statuses == ["GpuHot firing", "GpuHot firing", "GpuHot resolved"]
        assert [desk.labels(i)["severity"] for i in range(3)] == ["warning", "critical", "warning"]
        assert len(desk.sent) == 2, "one message says both"

    def test_better(self, desk: Any) -> None:
        rule = FixedRule("warning")
        desk.hold((Finding("GPU at 95 °C", severity="critical"),), 5, name="GpuHot", rule=rule)
        desk.hold((Finding("GPU at 85 °C"),), 60, name="GpuHot", rule=rule)
        assert desk.statuses == ["GpuHot firing"]


class TestUserAlerts:
    """What a training script raises itself with `sdk.alert()`."""

    def test_the_title_is_the_summary_and_no_label(self, desk: Any) -> None:
        desk.engine.user_alert(a_rank(2), UserAlert(7, desk.now, "val loss went up", "by half", "critical"), desk.now)
        desk.wait(0.3)
        assert desk.labels()["alertname"] == "UserAlert"
        assert desk.labels()["severity"] == "critical"
        assert desk.notes()["summary"] == "val loss went up"
        assert desk.notes()["description"] == "by half"
        assert "val loss went up" not in desk.labels().values()

    def test_the_same_from_every_rank_is_one(self, desk: Any) -> None:
        for rank in range(8):
            desk.engine.user_alert(a_rank(rank), UserAlert(7, desk.now, "diverged", "", "warning"), desk.now)
        desk.wait(2)
        assert desk.statuses == ["UserAlert firing"]
        assert desk.notes()["ranks"] == "0-7"

    def test_two_titles_are_two_messages(self, desk: Any) -> None:
        for title in ("epoch 1 done", "epoch 2 done"):
            desk.engine.user_alert(a_rank(0), UserAlert(7, desk.now, title, "", "info"), desk.now)
        desk.wait(1)
        assert [len(payload["alerts"]) for payload in desk.payloads] == [1, 1]
        assert {desk.notes(i)["summary"] for i in range(2)} == {"epoch 1 done", "epoch 2 done"}

    def test_it_is_over_after_a_while(self, desk: Any) -> None:
        desk.engine.user_alert(a_rank(0), UserAlert(7, desk.now, "hello", "", "info"), desk.now)
        desk.wait(310)
        assert desk.statuses == ["UserAlert firing", "UserAlert resolved"]

    def test_a_script_that_raises_a_thousand_is_bounded_and_counted(self, desk: Any) -> None:
        for i in range(1000):
            desk.engine.user_alert(a_rank(0), UserAlert(i, desk.now, f"step {i} is bad", "", "info"), desk.now)
        desk.wait(1)
        assert len(desk.sent) == 16
        assert desk.engine.refused == {"user_alert_limit": 984}


class TestEnds:
    """Nothing stays open for ever."""

    def test_a_run_that_is_gone_is_resolved_and_its_series_vanish(self, desk: Any, nan: Nan) -> None:
        desk.hold(nan(0), 2)
        desk.engine.forget(desk.run, desk.now)
        desk.wait(2)
        assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]
        assert desk.samples("rule_state") == {}
        assert desk.samples("alert_active") == {}
        assert "Nothing is heard of the run any more" in desk.notes(1)["description"], "it was not mended"

    def test_what_fired_an_instant_before_its_run_was_gone_is_told_all_the_same(self, desk: Any, nan: Nan) -> None:
        desk.judge(nan(0))
        desk.engine.forget(desk.run, desk.now)
        desk.wait(3)
        assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]

    def test_a_rule_that_is_switched_off_takes_its_alerts_along(self, desk: Any, nan: Nan) -> None:
        desk.hold(nan(0), 2)
        desk.wait(desk.settings.abandon_after + 2)
        assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]

    @pytest.mark.parametrize("state", ["pending", "firing"])
    def test_forgetting_leaves_nothing_behind(self, desk: Any, nan: Nan, state: str) -> None:
        rule = FixedRule(for_=Span(seconds=60 if state == "pending" else 0))
        desk.hold(nan(0), 2, rule=rule)
        desk.engine.forget(desk.run, desk.now)
        desk.wait(5)
        assert desk.engine.active() == []


DAY = 86400.0


@pytest.mark.parametrize("jump", [-30 * DAY, -3600.0, 3600.0, 30 * DAY])
class TestClock:
    """A clock that is set back, or forth, holds nothing up, ends nothing, and tells nothing twice."""

    def set(self, desk: Any, jump: float) -> None:
        desk.now += jump
        desk.engine.shift(jump)

    def test_a_condition_must_hold_for_as_long_as_ever(self, desk: Any, nan: Nan, jump: float) -> None:
        rule = FixedRule(for_=Span(seconds=10))
        desk.hold(nan(1), 5, rule=rule)
        self.set(desk, jump)
        desk.hold(nan(1), 3, rule=rule)
        assert desk.statuses == []
        desk.hold(nan(1), 4, rule=rule)
        assert desk.statuses == ["LossNaN firing"]

    def test_what_fires_goes_on_and_is_not_repeated(self, desk: Any, nan: Nan, jump: float) -> None:
        desk.hold(nan(0), 5)
        self.set(desk, jump)
        desk.wait(1)  # no rule judges meanwhile
        desk.hold(nan(0), 5)
        assert desk.statuses == ["LossNaN firing"]

    def test_what_is_over_is_told_as_soon_as_ever(self, desk: Any, nan: Nan, jump: float) -> None:
        desk.hold(nan(0), 5)
        desk.hold((), 3)
        self.set(desk, jump)
        desk.wait(1)
        assert desk.statuses == ["LossNaN firing"]
        desk.hold((), 12)
        assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]
        self.set(desk, -jump)
        assert desk.engine.announced(desk.now) is not None, "who expects repetition is told for a while that it is over"

    def test_an_alert_of_a_script_lasts_as_long_as_ever(self, desk: Any, jump: float) -> None:
        info = next(iter(desk.run.ranks.values())).info
        desk.engine.user_alert(info, UserAlert(1, desk.now, "look", "", "warning"), desk.now)
        desk.wait(1)
        self.set(desk, jump)
        desk.wait(desk.settings.user_alert_lasts - 5)
        assert desk.statuses == ["UserAlert firing"]
        desk.wait(20)
        assert desk.statuses == ["UserAlert firing", "UserAlert resolved"]

    def test_with_no_agent_meanwhile(
        self, make_desk: Callable[..., Any], nan: Nan, tmp_path: Path, jump: float
    ) -> None:
        desk = make_desk(folder=tmp_path)
        desk.hold(nan(0), 5)
        desk.now += jump
        desk.restart()
        desk.hold(nan(0), 5)
        assert desk.statuses[:1] == ["LossNaN firing"]
        assert [p["notification_reason"] for p in desk.payloads[1:]] in ([], ["repeat interval elapsed"])
        told = len(desk.statuses)
        desk.hold((), 12)
        assert desk.statuses[told:] == ["LossNaN resolved"]


def test_the_log_says_in_one_line_what_fires_and_what_is_over(desk: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        desk.hold((Finding("a\nb\x1b[31m", rank=1),), 2)
        desk.hold((), 10)
    assert [r.message for r in caplog.records] == [
        "LossNaN fires, run exp-1-0a1b2c3d: a b [31m (rank 1)",
        "LossNaN is resolved, run exp-1-0a1b2c3d",
    ]
