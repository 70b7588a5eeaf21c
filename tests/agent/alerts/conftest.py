"""A desk to try the alert engine on: a clock that the test moves, one run, and what was announced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from rankscope.agent.alerts.engine import Alerts
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Notification, Rule
from rankscope.agent.fakes import FixedRule, a_batch, a_run
from rankscope.agent.model import Finding, Verdict

SETTINGS = Settings(group_wait=0.2, group_interval=1.0, resolve_after=5.0)
START = 1_790_000_000.0


@dataclass
class Desk:
    """The engine, judged once a second of its own time and ticked ten times."""

    folder: Path | None = None
    settings: Settings = SETTINGS
    runs_dir: Path | None = None
    name: str = "LossNaN"
    rule: Rule = field(default_factory=lambda: FixedRule("critical"))
    now: float = START
    sent: list[Notification] = field(default_factory=list[Notification])

    def __post_init__(self) -> None:
        self.node, self.run = a_run(8, now=self.now)
        self.restart()

    def restart(self) -> None:
        """A new process takes over where the old one was killed."""
        self.engine = Alerts("node-1", self.folder, self.settings, runs_dir=self.runs_dir, deliver=self.sent.append)

    def judge(self, verdict: Verdict, *, name: str = "", rule: Rule | None = None) -> None:
        self.engine.judge(name or self.name, rule or self.rule, self.run, verdict, self.now)

    def wait(self, seconds: float) -> None:
        """Let time pass with nobody judging."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.engine.tick(self.now)

    def hold(self, verdict: Verdict, seconds: float, *, name: str = "", rule: Rule | None = None) -> None:
        """Let a rule say the same thing for some seconds."""
        for _ in range(round(seconds)):
            self.judge(verdict, name=name, rule=rule)
            self.wait(1.0)

    def advance(self, step: int) -> None:
        """Let the run reach a step."""
        for rank in self.run.ranks.values():
            batch = a_batch(step, step)
            rank.apply(batch, self.now)
            assert rank.step == step

    @property
    def payloads(self) -> list[Mapping[str, object]]:
        """What queues, which know notifications by their id, would have taken."""
        return list({notification.id: notification.payload for notification in self.sent}.values())

    @property
    def statuses(self) -> list[str]:
        """What was announced: one word for each alert of each notification."""
        return [f"{cast('Mapping[str, str]', a['labels'])['alertname']} {a['status']}" for a in self.alerts]

    @property
    def alerts(self) -> list[Mapping[str, object]]:
        return [a for p in self.payloads for a in cast("Sequence[Mapping[str, object]]", p["alerts"])]

    def labels(self, i: int = -1) -> Mapping[str, str]:
        return cast("Mapping[str, str]", self.alerts[i]["labels"])

    def notes(self, i: int = -1) -> Mapping[str, str]:
        return cast("Mapping[str, str]", self.alerts[i]["annotations"])

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        return {s.labels: float(cast(float, s.value)) for s in self.engine.samples() if s.metric.name == name}


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def make_desk() -> Callable[..., Desk]:
    return Desk


@pytest.fixture
def nan() -> Callable[..., tuple[Finding, ...]]:
    """Return the findings of a NaN on these ranks."""

    def on(*ranks: int, step: int = 100) -> tuple[Finding, ...]:
        return tuple(
            Finding(f"loss is NaN at step {step}", step=step, value=float(np.nan), rank=rank) for rank in ranks
        )

    return on
