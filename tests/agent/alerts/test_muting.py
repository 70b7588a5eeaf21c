"""Silenced by people, or needless beside their cause: what is not announced, and what is told all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rankscope.agent.alerts.inhibitions import INHIBITIONS
from rankscope.agent.alerts.matchers import Matcher, parse
from rankscope.agent.alerts.render import timestamp
from rankscope.agent.alerts.silences import Silences
from rankscope.agent.component import class_name
from rankscope.agent.model import Finding

Nan = Callable[..., tuple[Finding, ...]]

RULES = """
    LossNaN LossSpike LossDivergence LossPlateau LossOscillation Overfitting GradientExplosion GradientVanishing
    LearningRateAnomaly DeadActivations SaturatedActivations FrozenParameters UpdateRatioOutOfRange LossScaleCollapse
    LowGpuUtilization DataLoaderBottleneck HostBottleneck Straggler TrainingStalled RankCrashed RankOutOfMemory
    ThroughputDrop GpuMemoryPressure GpuMemoryLeak GpuHardwareError GpuThrottled GpuHot HostMemoryPressure DiskPressure
    AgentBlind MetricThreshold
"""
CONTRACT = set(RULES.split())


def silence(now: float, *matchers: str, seconds: float = 60.0, start: float = 0.0) -> dict[str, object]:
    parsed = [parse(text) for text in matchers]
    return {
        "matchers": [{"name": m.name, "value": m.value, "isRegex": m.regex, "isEqual": m.equal} for m in parsed],
        "startsAt": timestamp(now + start),
        "endsAt": timestamp(now + start + seconds),
        "createdBy": "me",
        "comment": "known",
    }


class TestSilences:
    """While a silence holds, what it matches is not announced."""

    def test_nothing_is_announced_until_it_ends(self, desk: Any, nan: Nan) -> None:
        desk.engine.silences.create(silence(desk.now, "alertname=LossNaN", 'run=~"exp-.*"'), desk.now)
        desk.hold(nan(0), 58)
        assert desk.statuses == []
        assert desk.engine.active()[0]["silencedBy"] != []
        assert desk.samples("alert_active") == {("LossNaN", "critical", desk.run.name, "0", ""): 1}
        desk.hold(nan(0), 5)
        assert desk.statuses == ["LossNaN firing"]

    def test_other_alerts_are(self, desk: Any, nan: Nan) -> None:
        desk.engine.silences.create(silence(desk.now, "alertname=LossNaN", "run!=exp-1-0a1b2c3d"), desk.now)
        desk.hold(nan(0), 2)
        assert desk.statuses == ["LossNaN firing"]

    def test_what_came_and_went_in_silence_is_never_told(self, desk: Any, nan: Nan) -> None:
        desk.engine.silences.create(silence(desk.now, "alertname=LossNaN"), desk.now)
        desk.hold(nan(0), 5)
        desk.hold((), 100)
        assert desk.statuses == []
        assert len(desk.engine.recent()) == 1

    def test_the_end_of_what_was_announced_before_is_told(self, desk: Any, nan: Nan) -> None:
        """Or a pager that was told of it would stay open for ever."""
        desk.hold(nan(0), 2)
        desk.engine.silences.create(silence(desk.now, "alertname=LossNaN", seconds=600), desk.now)
        desk.hold(nan(0), 5)
        desk.hold((), 10)
        assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]

    def test_expiring_one_by_hand(self, desk: Any, nan: Nan) -> None:
        made = desk.engine.silences.create(silence(desk.now, "severity=critical", seconds=3600), desk.now)
        desk.hold(nan(0), 5)
        desk.engine.silences.expire(made.id, desk.now)
        desk.hold(nan(0), 1)
        assert desk.statuses == ["LossNaN firing"]
        assert desk.engine.silences.get(made.id).state(desk.now) == "expired"

    def test_they_survive_a_restart(self, make_desk: Callable[..., Any], nan: Nan, tmp_path: Path) -> None:
        desk = make_desk(folder=tmp_path)
        desk.engine.silences.create(silence(desk.now, "alertname=LossNaN"), desk.now)
        before = [s.as_json(desk.now) for s in desk.engine.silences.list(desk.now)]
        desk.restart()
        assert [s.as_json(desk.now) for s in desk.engine.silences.list(desk.now)] == before
        desk.hold(nan(0), 10)
        assert desk.statuses == []

    @pytest.mark.parametrize("jump", [-7200.0, 7200.0])
    def test_a_clock_that_is_set_ends_none_and_brings_none_back(
        self, make_desk: Callable[..., Any], nan: Nan, tmp_path: Path, jump: float
    ) -> None:
        """One lasts as long as it was to last, and what is over stays over; a planned one keeps its time."""
        desk = make_desk(folder=tmp_path)
        create = desk.engine.silences.create
        active = create(silence(desk.now, "alertname=LossNaN", seconds=60), desk.now)
        over = create(silence(desk.now, "alertname=GpuHot", seconds=5), desk.now)
        planned = create(silence(desk.now, "alertname=LossSpike", start=3600), desk.now)
        desk.hold(nan(0), 10)
        desk.now += jump
        desk.engine.shift(jump)
        for _ in range(2):
            silences = desk.engine.silences
            assert silences.get(active.id).ends == pytest.approx(active.ends + jump, abs=1e-2)
            assert silences.get(over.id).state(desk.now) == "expired"
            assert silences.get(planned.id).starts == pytest.approx(planned.starts, abs=1e-2)
            desk.restart()
        desk.hold(nan(0), 10)
        assert desk.statuses == []
        desk.wait(45)
        desk.hold(nan(0), 2)
        assert desk.statuses == ["LossNaN firing"]

    def test_one_that_begins_later(self, desk: Any, nan: Nan) -> None:
        desk.engine.silences.create(silence(desk.now, "alertname=LossNaN", start=30), desk.now)
        desk.hold(nan(0), 2)
        assert desk.statuses == ["LossNaN firing"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"matchers": []}, "matchers"),
            ({"matchers": [{"name": "a-b", "value": "x"}]}, "no label name"),
            ({"matchers": [{"name": "run", "value": "(", "isRegex": True}]}, "no regular expression"),
            ({"matchers": [{"name": "run", "value": ".*", "isRegex": True}]}, "everything would be silent"),
            ({"endsAt": timestamp(1.0)}, "in the past"),
            ({"endsAt": "tomorrow"}, "endsAt"),
        ],
    )
    def test_wrong_ones_are_refused_in_one_line(self, change: dict[str, object], message: str) -> None:
        silences = Silences()
        with pytest.raises(ValueError, match=message) as error:
            silences.create(silence(1e9, "alertname=LossNaN") | change, 1e9)
        assert "\n" not in str(error.value)

    def test_an_unknown_id(self) -> None:
        with pytest.raises(KeyError):
            Silences().expire("nothing", 1e9)
        with pytest.raises(KeyError):
            Silences().create(silence(1e9, "alertname=LossNaN") | {"id": "nothing"}, 1e9)

    def test_changing_one_keeps_its_id(self) -> None:
        silences = Silences()
        made = silences.create(silence(1e9, "alertname=LossNaN"), 1e9)
        longer = silences.create(silence(1e9, "alertname=LossNaN", seconds=999) | {"id": made.id}, 1e9 + 1)
        assert longer.id == made.id
        assert [s.ends for s in silences.list(1e9 + 2)] == [1e9 + 999]


@pytest.mark.parametrize(
    ("text", "matcher"),
    [
        ("run=exp-1", Matcher("run", "exp-1")),
        ('run="exp 1"', Matcher("run", "exp 1")),
        ("severity!=info", Matcher("severity", "info", equal=False)),
        ('alertname=~"Gpu.*"', Matcher("alertname", "Gpu.*", regex=True)),
        ("alertname!~Gpu.*|Disk.*", Matcher("alertname", "Gpu.*|Disk.*", regex=True, equal=False)),
        (r'run=~"exp-\d+"', Matcher("run", r"exp-\d+", regex=True)),
        ("LossNaN", Matcher("alertname", "LossNaN")),
        ("a=b=c", Matcher("a", "b=c")),
    ],
)
def test_matchers_are_written_as_for_amtool(text: str, matcher: Matcher) -> None:
    assert parse(text) == matcher
    assert parse(str(matcher)) == matcher


@pytest.mark.parametrize("text", ["", "=x", "two words", "a-b=c", "run~exp"])
def test_what_is_no_matcher(text: str) -> None:
    with pytest.raises(ValueError, match="no matcher"):
        parse(text)


def test_patterns_match_the_whole_value_and_a_missing_label_is_empty() -> None:
    assert not parse("run=~exp").matches({"run": "exp-1"})
    assert parse("rank!=0").matches({})
    assert parse("rank=").matches({})


class TestInhibition:
    """What follows from a cause is needless beside it."""

    def test_nan_silences_what_follows_from_it(self, desk: Any, nan: Nan) -> None:
        desk.judge(nan(0))
        for name in ("LossSpike", "LossPlateau", "GradientExplosion", "DiskPressure"):
            desk.judge((Finding(name),), name=name)
        desk.wait(1)
        assert sorted(desk.statuses) == ["DiskPressure firing", "LossNaN firing"]
        states = {a["labels"]["alertname"]: bool(a["inhibitedBy"]) for a in desk.engine.active()}
        assert states["LossPlateau"]
        assert not states["LossNaN"]

    def test_only_in_the_same_run(self, desk: Any, nan: Nan, make_desk: Callable[..., Any]) -> None:
        other = make_desk()
        other.run.name = "another"
        desk.judge(nan(0))
        desk.engine.judge("LossPlateau", desk.rule, other.run, (Finding("flat"),), desk.now)
        desk.wait(1)
        assert sorted(desk.statuses) == ["LossNaN firing", "LossPlateau firing"]

    def test_a_plateau_that_outlasts_the_nan_is_told_but_not_at_once(self, desk: Any, nan: Nan) -> None:
        desk.judge(nan(0))
        desk.judge((Finding("flat"),), name="LossPlateau")
        desk.hold((), 20)
        assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]
        desk.wait(30)
        assert desk.statuses[2:] == ["LossPlateau firing"]

    def test_a_plateau_that_was_told_before_is_resolved_in_spite_of_the_nan(self, desk: Any, nan: Nan) -> None:
        desk.hold((Finding("flat"),), 2, name="LossPlateau")
        for _ in range(10):
            desk.judge(nan(0))
            desk.hold((), 1, name="LossPlateau")
        assert desk.statuses == ["LossPlateau firing", "LossNaN firing", "LossPlateau resolved"]

    def test_it_can_be_switched_off(self, make_desk: Callable[..., Any], nan: Nan) -> None:
        desk = make_desk()
        desk.settings = replace(desk.settings, inhibit=False)
        desk.restart()
        desk.judge(nan(0))
        desk.judge((Finding("flat"),), name="LossPlateau")
        desk.wait(1)
        assert len(desk.statuses) == 2

    def test_the_table_names_rules_that_exist_and_no_rule_silences_itself(self) -> None:
        for inhibition in INHIBITIONS:
            assert {inhibition.source, *inhibition.targets} <= CONTRACT
            assert inhibition.source not in inhibition.targets

    def test_no_two_rules_silence_each_other(self) -> None:
        pairs = {(i.source, target) for i in INHIBITIONS for target in i.targets}
        assert not {(a, b) for a, b in pairs if (b, a) in pairs}


def test_the_name_of_a_rule_is_that_of_its_file() -> None:
    assert class_name("loss_nan") == "LossNaN"
