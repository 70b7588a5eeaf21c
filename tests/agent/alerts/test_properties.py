"""Whatever rules say, people silence, and however often the agent is killed: what holds for the life of every alert."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rankscope.agent.alerts.engine import Alerts
from rankscope.agent.alerts.render import timestamp
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Notification
from rankscope.agent.fakes import FixedRule, a_run
from rankscope.agent.model import SEVERITIES, Finding, Incomplete, Severity, Span, Verdict

SETTINGS = Settings(
    group_wait=0.5,
    group_interval=8.0,
    resolve_after=4.0,
    repeat_interval=1e9,
    flap_window=60.0,
    resolve_after_most=30.0,
    inhibit_linger=5.0,
    abandon_after=50.0,
)
NAMES = ("LossNaN", "GpuHot")
MEMORY = "/dev/shm"  # nothing here outlives more than an engine: no need to wait for a disk
SPANS = {"LossNaN": Span(), "GpuHot": Span(steps=3)}

ranks = st.sets(st.integers(0, 3), min_size=1)


@dataclass
class Do:
    """One thing that happens, and the seconds until the next."""

    what: str  # judge, blind, well, silence, expire, kill, forget
    name: str
    ranks: frozenset[int]
    severity: Severity
    gpu: str
    pause: float


happenings = st.builds(
    Do,
    st.sampled_from(["judge"] * 6 + ["well"] * 6 + ["blind", "silence", "expire", "kill", "forget"]),
    st.sampled_from(NAMES),
    ranks.map(frozenset),
    st.sampled_from(SEVERITIES),
    st.sampled_from(["", "", "0"]),
    st.sampled_from([0.0, 0.25, 1.0, 3.0, 5.0, 8.0, 20.0]),
)


class World:
    """An engine, and what its receivers were told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1e9
        self.step = 0
        self.sent: dict[str, Notification] = {}
        self.verdicts: dict[str, Verdict] = {}  # what each rule says until it says something else
        _, self.run = a_run(4, now=self.now)
        self.start()

    def start(self) -> None:
        self.engine = Alerts("node-1", self.folder, SETTINGS, deliver=self.take)

    def take(self, notification: Notification) -> None:
        json.dumps(notification.payload, allow_nan=False)
        self.sent.setdefault(notification.id, notification)

    def wait(self, seconds: float) -> None:
        for i in range(1 + int(seconds / 0.25)):
            if i % 2 == 0:
                self.judge()
            self.engine.tick(self.now)
            self.now += 0.25

    def judge(self) -> None:
        self.step += 1
        for name, verdict in self.verdicts.items():
            if not isinstance(verdict, Incomplete):
                verdict = tuple(replace(finding, step=self.step) for finding in verdict)
            self.engine.judge(name, FixedRule("info", SPANS[name]), self.run, verdict, self.now)

    def do(self, do: Do) -> None:
        if do.what == "judge":
            self.verdicts[do.name] = tuple(
                Finding("x", rank=rank, gpu=do.gpu or None, severity=do.severity, value=float("nan"))
                for rank in do.ranks
            )
        elif do.what == "well":
            self.verdicts[do.name] = ()
        elif do.what == "blind":
            self.verdicts[do.name] = Incomplete("cannot tell")
        elif do.what == "silence":
            body = {
                "matchers": [{"name": "alertname", "value": do.name}],
                "endsAt": timestamp(self.now + 10),
            }
            self.engine.silences.create(body, self.now)
        elif do.what == "expire":
            for silence in self.engine.silences.list(self.now):
                self.engine.silences.expire(silence.id, self.now)
        elif do.what == "kill":
            self.start()
        elif do.what == "forget":
            self.verdicts.clear()
            self.engine.forget(self.run, self.now)
        self.wait(do.pause)

    def calm_down(self) -> None:
        """All is well, and for long enough that everything must be over."""
        self.verdicts = dict.fromkeys(NAMES, ())
        self.wait(120)


@settings(deadline=None, max_examples=100)
@given(st.lists(happenings, min_size=5, max_size=50))
def test_the_life_of_every_alert(story: Sequence[Do]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if os.path.isdir(MEMORY) else None) as folder:
        world = World(Path(folder))
        for do in story:
            world.do(do)
        world.calm_down()
        told = [alert for n in world.sent.values() for alert in _alerts(n)]
        _each_alert_begins_and_ends_by_turns(told)
        _labels_never_change_within_a_life(told)
        _groups_are_not_mixed(world.sent.values())
        if not any(do.what in ("silence", "kill") for do in story):
            fired = {s.labels[0] for s in world.engine.samples() if s.metric.name == "alerts_total" and s.value != 0}
            assert fired == {alert["labels"]["alertname"] for alert in told}, "nothing fires unheard"
        assert world.engine.active() == [], "everything is over in the end"
        assert all(s.metric.name != "alert_active" for s in world.engine.samples())
        world.wait(100)
        assert [a for n in world.sent.values() for a in _alerts(n)] == told, "and nothing more is said"


def _alerts(notification: Notification) -> list[dict[str, Any]]:
    alerts: list[dict[str, Any]] = notification.payload["alerts"]  # type: ignore[assignment]
    return alerts


def _each_alert_begins_and_ends_by_turns(told: Iterable[dict[str, Any]]) -> None:
    """What fires (and is perhaps said again with its group) is resolved before it begins anew, and at the end."""
    alive: dict[str, str] = {}  # fingerprint → since when
    for alert in told:
        name, since = alert["fingerprint"], alert["startsAt"]
        if alert["status"] == "firing":
            assert alive.setdefault(name, since) == since, "it fires anew without having been resolved"
        else:
            assert alive.pop(name, None) == since, "what is resolved was never said to fire"
            assert alert["endsAt"] >= since
    assert alive == {}, "what was said to fire was never resolved"


def _labels_never_change_within_a_life(told: Iterable[dict[str, Any]]) -> None:
    labels: dict[str, dict[str, str]] = {}
    for alert in told:
        assert labels.setdefault(alert["fingerprint"], alert["labels"]) == alert["labels"]


def _groups_are_not_mixed(sent: Iterable[Notification]) -> None:
    for notification in sent:
        names = {alert["labels"]["alertname"] for alert in _alerts(notification)}
        assert len(names) == 1
        firing = any(alert["status"] == "firing" for alert in _alerts(notification))
        assert notification.payload["status"] == ("firing" if firing else "resolved")
        prints = [alert["fingerprint"] for alert in _alerts(notification)]
        assert len(prints) == len(set(prints)), "one body speaks of an alert once"
