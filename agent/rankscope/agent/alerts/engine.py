"""The alert engine: verdicts in, notifications out; it alone owns the life of an alert."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from rankscope.agent.alerts import render, saved
from rankscope.agent.alerts.alert import Key, Mark, Scope
from rankscope.agent.alerts.announcing import Announcing
from rankscope.agent.alerts.book import USER_ALERT, Book
from rankscope.agent.alerts.history import History
from rankscope.agent.alerts.muting import Muting
from rankscope.agent.alerts.samples import RuleState, samples, state_of
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.alerts.silences import Silences
from rankscope.agent.component import Notification, Rule
from rankscope.agent.model import SEVERITIES, Finding, Incomplete, RankInfo, Sample, Severity, Span, UserAlert, Verdict
from rankscope.agent.runs.state import Run

log = logging.getLogger(__name__)

RESEND = 300.0  # seconds for which receivers that expect repetition are told again that an alert is over
RUN_GONE = "Nothing is heard of the run any more: that ends the alert, and says nothing about its cause."
SAVE_EVERY = 10.0  # seconds between two saves of what is not urgent


class Alerts:
    """Takes verdicts, keeps alerts and silences in `folder` (None: in memory), and makes notifications.

    `runs_dir`: where alerts are kept with their runs. `deliver` takes each notification that `tick` makes, and has it
    on disk when it returns. Methods may be called from any thread; times are Unix seconds.
    """

    def __init__(
        self,
        hostname: str,
        folder: Path | None,
        settings: Settings,
        *,
        runs_dir: Path | None = None,
        deliver: Callable[[Notification], None] | None = None,
    ) -> None:
        self.refused: dict[str, int] = {}  # alerts of scripts that were not taken, by reason
        self._hostname = hostname
        self._settings = settings
        self._deliver = deliver
        self._lock = threading.RLock()
        self._path = folder / "alerts.json" if folder is not None else None
        self.silences = Silences(folder / "silences.json" if folder is not None else None)
        before = saved.load(self._path)
        self._book = Book(settings, hostname, History(runs_dir, settings, hostname), before)
        self._handed = before.handed
        self._muting = Muting(self.silences, settings)
        self._announcing = Announcing(settings, hostname, dict(before.groups))
        self._states: dict[Scope, RuleState] = {}
        self._last = 0.0  # what the clock said last
        self._saved = 0.0

    # --- verdicts in --------------------------------------------------------------------------------------------------

    def judge(self, name: str, rule: Rule, run: Run | None, verdict: Verdict, now: float) -> None:
        """Take what a rule says of one run, or of the node. `name` is the alert's name."""
        scope = Scope(name, run.project, run.name) if run is not None else Scope(name)
        with self._lock:
            self._wake(now)
            self._book.fired.setdefault((name, rule.severity), 0)
            alerts = self._book.open.get(scope, {})
            if not alerts and not verdict:
                self._states[scope] = "ok"
            elif isinstance(verdict, Incomplete):
                for alert in alerts.values():
                    alert.unknown(now)
                self._states[scope] = "firing" if state_of(alerts.values()) == "firing" else "incomplete"
            else:
                self._compare(scope, rule, run, verdict, now)
                self._states[scope] = state_of(self._book.open.get(scope, {}).values())

    def _compare(self, scope: Scope, rule: Rule, run: Run | None, findings: Sequence[Finding], now: float) -> None:
        """Compare what a rule finds with the alerts that are open: what is new, what goes on, what is gone?"""
        at = Mark(now, _newest_step(run))
        leads = run is None or not run.ranks or run.info.node_rank == 0
        problems = _sort(scope, findings)
        for key, found in problems.items():
            severities: list[Severity] = [finding.severity or rule.severity for finding in found]
            steps = [finding.step for finding in found if finding.step is not None]
            since = Mark(now, max(steps)) if steps else at
            self._book.problem(key, found, max(severities, key=SEVERITIES.index), rule.for_, since, leads)
        for alert in list(self._book.open.get(scope, {}).values()):
            if alert.key not in problems:
                self._book.cleared(alert, rule, at)

    def user_alert(self, rank: RankInfo, alert: UserAlert, now: float) -> None:
        """Take an alert that a training script raised; the same title from several ranks is one alert."""
        title = alert.title[:200] or "alert"
        scope = Scope(USER_ALERT, rank.key.project, rank.key.run)
        key = Key(scope, title=title)
        with self._lock:
            self._wake(now)
            alerts = self._book.open.get(scope, {})
            if key not in alerts and len(alerts) >= self._settings.user_alerts:
                if not self.refused:
                    log.warning("run %s raises too many different alerts: %r is refused", rank.key.run, title)
                self.refused["user_alert_limit"] = self.refused.get("user_alert_limit", 0) + 1
                return
            finding = Finding(
                title,
                step=alert.step,
                time=alert.time,
                rank=rank.key.rank,
                description=alert.text,
                severity=alert.severity,
            )
            self._book.problem(key, [finding], alert.severity, Span(), Mark(now, alert.step), rank.node_rank == 0)

    def forget(self, run: Run, now: float) -> None:
        """A run is gone: what is open of it is over, and its verdicts are no longer exported."""
        with self._lock:
            self._wake(now)
            for scope in [scope for scope in self._states if (scope.project, scope.run) == (run.project, run.name)]:
                del self._states[scope]
            for alert in list(self._book):
                if (alert.key.scope.project, alert.key.scope.run) == (run.project, run.name):
                    self._book.finish(alert, RUN_GONE)

    # --- the passing of time ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Notification]:
        """Let time pass; return the notifications that are due, after `deliver` took them."""
        with self._lock:
            self._wake(now)
            book = self._book
            book.expire(now)
            firing = book.firing()
            for alert in firing:
                book.settle(alert, now)
            book.changed |= self._muting.apply(firing, now)
            notifications, told = self._announcing.announce(firing, book.ended, now)
            for alert in told:
                book.ended.remove(alert)
                book.close(alert, now)
            for alert in book.resolve(now):
                if alert.key.scope in self._states:
                    self._states[alert.key.scope] = state_of(book.open.get(alert.key.scope, {}).values())
            self._handed += notifications
            if notifications or book.urgent or (book.changed and abs(now - self._saved) >= SAVE_EVERY):
                self._save(now)
            made, self._handed = self._handed, []
            book.changed |= bool(made)
            if self._deliver is not None:
                for notification in made:
                    self._deliver(notification)
            return made

    def _wake(self, now: float) -> None:
        """Learn the time: that without an agent counts for nothing, and a clock set back then holds nothing up."""
        before, self._last = self._last, now
        if before:
            return
        noted = [*(alert.judged for alert in self._book), *self._announcing.groups.values()]
        if (ahead := max(noted, default=now) - now) > 0:
            self._book.shift(-ahead)
            self._announcing.shift(-ahead)
        for alert in self._book:
            if not alert.key.title:
                alert.unknown(now)

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds: what was so long ago still is."""
        with self._lock:
            self._book.shift(seconds)
            self._announcing.shift(seconds)
            self.silences.shift(seconds, self._last)
            self._saved += seconds
            self._last += seconds if self._last else 0.0

    # --- what is known ------------------------------------------------------------------------------------------------

    def active(self) -> list[dict[str, object]]:
        """Return the alerts that are pending or firing as JSON, the gravest and oldest first."""
        with self._lock:
            alerts = sorted(self._book, key=lambda a: (a.state, -SEVERITIES.index(a.severity), a.began.time))
            return [render.detailed(alert, self._settings, self._hostname) for alert in alerts]

    def ranks_of(self, name: str) -> set[tuple[str, int]]:
        """Return run and rank of everything for which alerts of this name fire now."""
        with self._lock:
            firing = [alert for alert in self._book.firing() if alert.key.scope.name == name]
            return {(alert.key.scope.run, rank) for alert in firing for rank in alert.ranks}

    def recent(self) -> list[dict[str, object]]:
        """Return the alerts that were resolved last as JSON, newest first."""
        with self._lock:
            alerts = [*self._book.past, *self._book.ended]
            alerts.sort(key=lambda a: -a.ended)
            return [render.detailed(alert, self._settings, self._hostname) for alert in alerts]

    def announced(self, now: float) -> Notification | None:
        """Return all that receivers should hold for firing, and what was resolved lately; None where that is nothing.

        This is what goes again and again to receivers that expect repetition, as Alertmanager does.
        """
        with self._lock:
            over = [a for a in (*self._book.ended, *self._book.past) if a.announced and 0 <= now - a.ended < RESEND]
            firing = [alert for alert in self._book.firing() if alert.announced]
            alive = {a.fingerprint for a in firing}
            alerts = [*firing, *(a for a in over if a.fingerprint not in alive)]
            return self._announcing.notification(alerts, {}, "repeat interval elapsed") if alerts else None

    def samples(self) -> list[Sample]:
        """Return the states of all rules and alerts as metrics."""
        with self._lock:
            return samples(self._states, self._book, self._book.fired)

    # --- what outlives the process ------------------------------------------------------------------------------------

    def _save(self, now: float) -> None:
        self._book.urgent = self._book.changed = False
        self._saved = now
        self._book.flapping.forget(now)
        if self._path is None:
            return
        state = saved.Saved(
            open=list(self._book),
            ended=self._book.ended,
            past=[alert for alert in self._book.past if now - alert.ended < RESEND],
            groups=list(self._announcing.groups.items()),
            firings=list(self._book.flapping.firings.items()),
            handed=self._handed,
        )
        try:
            saved.save(self._path, state)
        except OSError as error:
            log.error("the state of alerts cannot be saved in %s: %s", self._path, error.strerror)


def _newest_step(run: Run | None) -> int | None:
    steps = [rank.step for rank in run.ranks.values() if rank.step is not None] if run is not None else []
    return max(steps, default=None)


def _sort(scope: Scope, findings: Sequence[Finding]) -> dict[Key, list[Finding]]:
    """Sort findings into problems: the same on several ranks is one."""
    found: dict[Key, list[Finding]] = {}
    for finding in findings:
        key = Key(scope, finding.gpu or "", tuple(sorted(finding.labels.items())))
        found.setdefault(key, []).append(finding)
    return found
