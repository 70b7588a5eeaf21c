"""The alert engine: verdicts in, notifications out; it alone owns the life of an alert."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rankscope.agent.alerts import render, saved
from rankscope.agent.alerts.alert import Alert, Evidence, Key, Mark, Scope
from rankscope.agent.alerts.announcing import Announcing
from rankscope.agent.alerts.fingerprint import fingerprint
from rankscope.agent.alerts.flapping import Flapping
from rankscope.agent.alerts.history import History
from rankscope.agent.alerts.muting import Muting
from rankscope.agent.alerts.samples import RuleState, samples, state_of
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.alerts.silences import Silences
from rankscope.agent.component import Notification, Rule
from rankscope.agent.model import SEVERITIES, Finding, Incomplete, RankInfo, Sample, Severity, Span, UserAlert, Verdict
from rankscope.agent.runs.state import Run

log = logging.getLogger(__name__)

USER_ALERT = "UserAlert"
RESEND = 300.0  # seconds for which receivers that expect repetition are told again that an alert is over
SAVE_EVERY = 10.0  # seconds between two saves of what is not urgent
CLOCK_SLACK = 1.0  # seconds that the clock may go back without anybody minding


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
        self._open: dict[Scope, dict[Key, Alert]] = {}
        for alert in before.open:
            self._open.setdefault(alert.key.scope, {})[alert.key] = alert
        self._ended = before.ended
        self._past = deque(before.past, maxlen=200)
        self._handed = before.handed
        self._history = History(runs_dir, settings, hostname)
        self._flapping = Flapping(settings, dict(before.firings))
        self._muting = Muting(self.silences, settings)
        self._announcing = Announcing(settings, hostname, dict(before.groups))
        self._states: dict[Scope, RuleState] = {}
        self._fired: dict[tuple[str, Severity], int] = {}
        self._last = 0.0  # what the clock said last
        self._saved = 0.0
        self._urgent = self._changed = False

    # --- verdicts in --------------------------------------------------------------------------------------------------

    def judge(self, name: str, rule: Rule, run: Run | None, verdict: Verdict, now: float) -> None:
        """Take what a rule says of one run, or of the node. `name` is the alert's name."""
        scope = Scope(name, run.project, run.name) if run is not None else Scope(name)
        with self._lock:
            self._wake(now)
            self._fired.setdefault((name, rule.severity), 0)
            alerts = self._open.get(scope)
            if not alerts and not verdict:
                self._states[scope] = "ok"
                return
            alerts = self._open.setdefault(scope, {})
            if isinstance(verdict, Incomplete):
                for alert in alerts.values():
                    alert.unknown(now)
                self._states[scope] = "firing" if state_of(alerts.values()) == "firing" else "incomplete"
                return
            at = Mark(now, _newest_step(run))
            found = self._sort(scope, verdict)
            for key, findings in found.items():
                self._found(alerts, key, findings, rule, run, at)
            for key in [key for key in alerts if key not in found]:
                self._cleared(alerts, key, rule, at)
            self._states[scope] = state_of(alerts.values())

    def user_alert(self, rank: RankInfo, alert: UserAlert, now: float) -> None:
        """Take an alert that a training script raised; the same title from several ranks is one alert."""
        title = alert.title[:200] or "alert"
        scope = Scope(USER_ALERT, rank.key.project, rank.key.run)
        key = Key(scope, title=title)
        with self._lock:
            self._wake(now)
            alerts = self._open.setdefault(scope, {})
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
            self._raise(alerts, key, [finding], alert.severity, Span(), Mark(now, alert.step), rank.node_rank == 0)

    def forget(self, run: Run, now: float) -> None:
        """A run is gone: what is open of it is over, and its verdicts are no longer exported."""
        with self._lock:
            self._wake(now)
            for scope in [scope for scope in self._states if (scope.project, scope.run) == (run.project, run.name)]:
                del self._states[scope]
            for scope, alerts in self._open.items():
                if (scope.project, scope.run) == (run.project, run.name):
                    self._finish(alerts)

    # --- the passing of time ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Notification]:
        """Let time pass; return the notifications that are due, after `deliver` took them."""
        with self._lock:
            self._wake(now)
            self._expire(now)
            firing = [alert for alert in self._alerts() if alert.state == "firing"]
            for alert in firing:
                self._settle(alert, now)
            self._changed |= self._muting.apply(firing, now)
            notifications, told = self._announcing.announce(firing, self._ended, now)
            for alert in told:
                self._ended.remove(alert)
                self._close(alert, now)
            self._resolve(now)
            self._urgent |= bool(notifications)
            self._handed += notifications
            if self._urgent or (self._changed and abs(now - self._saved) >= SAVE_EVERY):
                self._save(now)
            made, self._handed = self._handed, []
            self._changed |= bool(made)
            if self._deliver is not None:
                for notification in made:
                    self._deliver(notification)
            return made

    def _wake(self, now: float) -> None:
        """Learn the time: that without an agent counts for nothing, and a clock that is set back holds nothing up."""
        if not self._last:
            for alert in self._alerts():
                if not alert.key.title:
                    alert.unknown(now)
        elif (back := self._last - now) > CLOCK_SLACK:
            log.warning("the clock was set back by %.0f s", back)
            for alert in (*self._alerts(), *self._ended):
                alert.shift(back)
            self._announcing.shift(back)
            self._flapping.shift(back)
        self._last = now

    def _expire(self, now: float) -> None:
        """End what nobody judges any more."""
        for scope, alerts in self._open.items():
            limit = self._settings.user_alert_lasts if scope.name == USER_ALERT else self._settings.abandon_after
            for key in [key for key, alert in alerts.items() if now - alert.judged >= limit and not alert.over]:
                self._finish(alerts, key)

    def _settle(self, alert: Alert, now: float) -> None:
        """Freeze the labels once every rank had its chance to join."""
        if alert.settled or now < alert.fired + self._settings.group_wait:
            return
        self._label(alert)
        alert.settled = self._urgent = True
        self._history.append(alert, now)
        level = logging.INFO if alert.severity == "info" else logging.WARNING
        log.log(level, "%s fires%s: %s", alert.key.scope.name, render.whereabouts(alert), render.one_line(alert))

    def _resolve(self, now: float) -> None:
        """End alerts that are over, but none that nobody was told of and nobody silenced."""
        for scope in list(self._open):
            alerts = self._open[scope]
            for key, alert in list(alerts.items()):
                if alert.over and alert.settled and (alert.announced or alert.muted):
                    self._end(alert, now)
                    del alerts[key]
                    if scope in self._states:
                        self._states[scope] = state_of(alerts.values())
            if not alerts:
                del self._open[scope]

    # --- one alert ----------------------------------------------------------------------------------------------------

    def _sort(self, scope: Scope, findings: Sequence[Finding]) -> dict[Key, list[Finding]]:
        """Sort findings into problems: the same on several ranks is one."""
        found: dict[Key, list[Finding]] = {}
        for finding in findings:
            key = Key(scope, finding.gpu or "", tuple(sorted(finding.labels.items())))
            found.setdefault(key, []).append(finding)
        return found

    def _found(
        self, alerts: dict[Key, Alert], key: Key, findings: Sequence[Finding], rule: Rule, run: Run | None, at: Mark
    ) -> None:
        severities: list[Severity] = [finding.severity or rule.severity for finding in findings]
        severity = max(severities, key=SEVERITIES.index)
        steps = [finding.step for finding in findings if finding.step is not None]
        at = Mark(at.time, max(steps)) if steps else at
        leads = run is None or not run.ranks or run.info.node_rank == 0
        self._raise(alerts, key, findings, severity, rule.for_, at, leads)

    def _raise(
        self,
        alerts: dict[Key, Alert],
        key: Key,
        findings: Sequence[Finding],
        severity: Severity,
        span: Span,
        at: Mark,
        leads: bool,
    ) -> None:
        """A problem is there now, with this severity; `span` is how long it must be until its alert fires."""
        evidence = Evidence.of(findings, severity)
        ranks = [finding.rank for finding in findings if finding.rank is not None]
        alert = alerts.get(key)
        if alert is None:
            alert = alerts[key] = Alert(key, severity, at, at.time, evidence, evidence, leads=leads)
            self._changed = True
        elif SEVERITIES.index(severity) > SEVERITIES.index(alert.severity):
            if alert.settled:  # its labels are known to others: the graver alert is another one, and fires at once
                self._end(alert, at.time)
                alert = alerts[key] = Alert(key, severity, alert.began, at.time, evidence, evidence, leads=leads)
                span = Span()
            alert.severity = severity
        if alert.found(evidence, ranks, span, at):
            alert = alerts[key] = self._fire(alert, at.time)
        if not alert.settled:
            self._label(alert)

    def _fire(self, alert: Alert, now: float) -> Alert:
        """An alert fires; return it, or the earlier one that it continues."""
        self._urgent = True
        alert.firings = self._flapping.fired(alert.key, now)
        for other in self._ended:
            if other.key == alert.key and other.severity == alert.severity:
                self._ended.remove(other)
                other.revive(alert)
                return other
        count = (alert.key.scope.name, alert.severity)
        self._fired[count] = self._fired.get(count, 0) + 1
        return alert

    def _cleared(self, alerts: dict[Key, Alert], key: Key, rule: Rule, at: Mark) -> None:
        alert = alerts[key]
        if alert.state == "pending":
            del alerts[key]
            self._changed = True
        else:
            alert.cleared(self._flapping.hold(rule, alert.firings), at)

    def _finish(self, alerts: dict[Key, Alert], *keys: Key) -> None:
        """Nothing will be heard of these alerts (default: all) any more."""
        for key in keys or list(alerts):
            if alerts[key].state == "pending":
                del alerts[key]
            else:
                alerts[key].over = True
        self._changed = True

    def _end(self, alert: Alert, now: float) -> None:
        alert.end(now)
        self._urgent = True
        if alert.announced:
            self._ended.append(alert)
        else:
            self._close(alert, now)

    def _close(self, alert: Alert, now: float) -> None:
        """Receivers know that an alert is over, or never heard of it: it is history."""
        log.info("%s is resolved%s", alert.key.scope.name, render.whereabouts(alert))
        self._history.append(alert, now)
        self._past.append(alert)

    def _label(self, alert: Alert) -> None:
        alert.labels = render.labels_of(alert, self._hostname)
        alert.fingerprint = fingerprint(alert.labels)

    # --- what is known ------------------------------------------------------------------------------------------------

    def _alerts(self) -> Iterator[Alert]:
        for alerts in self._open.values():
            yield from alerts.values()

    def active(self) -> list[dict[str, object]]:
        """Return the alerts that are pending or firing as JSON, the gravest and oldest first."""
        with self._lock:
            alerts = sorted(self._alerts(), key=lambda a: (a.state, -SEVERITIES.index(a.severity), a.began.time))
            return [render.detailed(alert, self._settings, self._hostname) for alert in alerts]

    def ranks_of(self, name: str) -> set[tuple[str, int]]:
        """Return run and rank of everything for which alerts of this name fire now."""
        with self._lock:
            firing = [a for a in self._alerts() if a.key.scope.name == name and a.state == "firing"]
            return {(alert.key.scope.run, rank) for alert in firing for rank in alert.ranks}

    def recent(self) -> list[dict[str, object]]:
        """Return the alerts that were resolved last as JSON, newest first."""
        with self._lock:
            alerts = [*self._past, *self._ended]
            alerts.sort(key=lambda a: -a.ended)
            return [render.detailed(alert, self._settings, self._hostname) for alert in alerts]

    def announced(self, now: float) -> Notification | None:
        """Return all that receivers should hold for firing, and what was resolved lately; None where that is nothing.

        This is what goes again and again to receivers that expect repetition, as Alertmanager does.
        """
        with self._lock:
            over = [a for a in (*self._ended, *self._past) if a.announced and 0 <= now - a.ended < RESEND]
            firing = [a for a in self._alerts() if a.state == "firing" and a.announced]
            alive = {a.fingerprint for a in firing}
            alerts = [*firing, *(a for a in over if a.fingerprint not in alive)]
            return self._announcing.notification(alerts, {}, "repeat interval elapsed") if alerts else None

    def samples(self) -> list[Sample]:
        """Return the states of all rules and alerts as metrics."""
        with self._lock:
            return samples(self._states, self._alerts(), self._fired)

    # --- what outlives the process ------------------------------------------------------------------------------------

    def _save(self, now: float) -> None:
        self._urgent = self._changed = False
        self._saved = now
        self._flapping.forget(now)
        if self._path is None:
            return
        state = saved.Saved(
            open=list(self._alerts()),
            ended=self._ended,
            past=[alert for alert in self._past if now - alert.ended < RESEND],
            groups=list(self._announcing.groups.items()),
            firings=list(self._flapping.firings.items()),
            handed=self._handed,
        )
        try:
            saved.save(self._path, state)
        except OSError as error:
            log.error("the state of alerts cannot be saved in %s: %s", self._path, error.strerror)


def _newest_step(run: Run | None) -> int | None:
    steps = [rank.step for rank in run.ranks.values() if rank.step is not None] if run is not None else []
    return max(steps, default=None)
