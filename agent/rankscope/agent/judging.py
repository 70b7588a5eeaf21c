"""Puts the rules to the runs: soon after something came, and once a second in any case."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from rankscope.agent.alerts.engine import Alerts
from rankscope.agent.component import Rule
from rankscope.agent.model import Batch, Incomplete, UserAlert, Verdict
from rankscope.agent.runs.clock import Dated
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run

log = logging.getLogger("rankscope.judging")

TICK = 0.1  # seconds: how soon news is judged, and how finely the alert engine keeps time
PAUSE = 0.2  # seconds at least between two judgements of one run, however fast news comes
EVERY = 1.0  # seconds between two judgements of everything


class Judging:
    """Evaluates rules and hands their verdicts to the alert engine."""

    def __init__(self, node: Node, alerts: Alerts) -> None:
        self.rules: Sequence[tuple[str, Rule]] = ()
        self.dated: Sequence[Dated] = (node, alerts)  # what moves with the clock
        self.failures: dict[str, int] = {}  # rules that raised, by name
        self._node = node
        self._alerts = alerts
        self._news: set[tuple[str, str]] = set()
        self._judged: dict[tuple[str, str], float] = {}  # monotonic seconds

    def news(self, rank: Rank, batch: Batch | None) -> None:
        """Something new is known of a rank."""
        key = rank.info.key
        self._news.add((key.project, key.run))
        for event in batch.events if batch else ():
            if isinstance(event, UserAlert):
                self._alerts.user_alert(rank.info, event, self._node.clock.now())

    async def run(self) -> None:
        due = 0.0
        while True:
            clock = time.monotonic()
            self._look()
            if clock >= due:
                due = clock + EVERY
                self.judge(None, self._node.clock.now())
                self._judged = {key: self._judged.get(key, 0.0) for key in self._node.runs}
                self._news.update(self._node.runs)
            for key in [key for key in self._news if clock - self._judged.get(key, 0.0) >= PAUSE]:
                self._news.discard(key)
                if (run := self._node.runs.get(key)) is not None:
                    self._judged[key] = clock
                    self.judge(run, self._node.clock.now())
            self._alerts.tick(self._node.clock.now())
            await asyncio.sleep(TICK)

    def _look(self) -> None:
        """Notice that the clock was set, before anything is judged by it."""
        if moved := self._node.clock.look():
            for part in self.dated:
                part.shift(moved)

    def judge(self, run: Run | None, now: float) -> None:
        """Put the rules of one run, or of the node, to the state."""
        scope = "node" if run is None else "run"
        for name, rule in self.rules:
            if rule.scope == scope:
                self._alerts.judge(name, rule, run, self._check(name, rule, run, now), now)

    def _check(self, name: str, rule: Rule, run: Run | None, now: float) -> Verdict:
        try:
            return rule.check(self._node, run, now)
        except Exception as error:
            if name not in self.failures:
                log.exception("rule %s failed", name)
            self.failures[name] = self.failures.get(name, 0) + 1
            return Incomplete(f"the rule failed: {type(error).__name__}")
