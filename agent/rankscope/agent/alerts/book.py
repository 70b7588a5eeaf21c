"""The alerts that are open, those that are over, and what makes one into the other."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence

from rankscope.agent.alerts import render
from rankscope.agent.alerts.alert import Alert, Evidence, Key, Mark, Scope
from rankscope.agent.alerts.fingerprint import fingerprint
from rankscope.agent.alerts.flapping import Flapping
from rankscope.agent.alerts.history import History
from rankscope.agent.alerts.saved import Saved
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Rule
from rankscope.agent.model import SEVERITIES, Finding, Severity, Span

log = logging.getLogger(__name__)

USER_ALERT = "UserAlert"
ANSWERS = 0.75  # seconds that ranks have at most to say what they know: a NaN is told of within a second
REMEMBERED = 200  # alerts that are over and still shown


class Book:
    """Alerts by what they are about. Times are Unix seconds.

    `open`: pending and firing; `ended`: over, but receivers still hold them for firing; `past`: history. `urgent` says
    that something changed which must not be lost, `changed` that something did which would be a pity to lose.
    """

    def __init__(self, settings: Settings, hostname: str, history: History, before: Saved) -> None:
        self.open: dict[Scope, dict[Key, Alert]] = {}
        for alert in before.open:
            self.open.setdefault(alert.key.scope, {})[alert.key] = alert
        self.ended = before.ended
        self.past = deque(before.past, maxlen=REMEMBERED)
        self.fired: dict[tuple[str, Severity], int] = {}  # how many, by name and severity
        self.flapping = Flapping(settings, dict(before.firings))
        self.urgent = self.changed = False
        self._settings = settings
        self._hostname = hostname
        self._history = history

    def __iter__(self) -> Iterator[Alert]:
        """Go through the open alerts."""
        for alerts in self.open.values():
            yield from alerts.values()

    def firing(self) -> list[Alert]:
        return [alert for alert in self if alert.state == "firing"]

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds."""
        for alert in (*self, *self.ended, *self.past):
            alert.shift(seconds)
        self.flapping.shift(seconds)
        self.changed = True

    def problem(
        self,
        key: Key,
        findings: Sequence[Finding],
        severity: Severity,
        span: Span,
        at: Mark,
        leads: bool,
    ) -> None:
        """A problem is there now, with this severity; `span` is how long it must be until its alert fires."""
        alerts = self.open.setdefault(key.scope, {})
        evidence = Evidence.of(findings, severity)
        ranks = [finding.rank for finding in findings if finding.rank is not None]
        alert = alerts.get(key)
        if alert is None:
            alert = alerts[key] = Alert(key, severity, at, at.time, evidence, evidence, leads=leads)
            self.changed = True
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
        self.urgent = True
        alert.firings = self.flapping.fired(alert.key, now)
        for other in self.ended:
            if other.key == alert.key and other.severity == alert.severity:
                self.ended.remove(other)
                other.revive(alert)
                return other
        count = (alert.key.scope.name, alert.severity)
        self.fired[count] = self.fired.get(count, 0) + 1
        return alert

    def cleared(self, alert: Alert, rule: Rule, at: Mark) -> None:
        """The rule looked, and the problem is not there now."""
        if alert.state == "pending":
            del self.open[alert.key.scope][alert.key]
            self.changed = True
        else:
            alert.cleared(self.flapping.hold(rule, alert.firings), at)

    def finish(self, alert: Alert, why: str) -> None:
        """Nothing will be heard of an alert any more; `why` is for people to read."""
        if alert.state == "pending":
            del self.open[alert.key.scope][alert.key]
        else:
            alert.over, alert.why_over = True, why
        self.changed = True

    def expire(self, now: float) -> None:
        """End what nobody judges any more."""
        for alert in list(self):
            user = alert.key.scope.name == USER_ALERT
            limit = self._settings.user_alert_lasts if user else self._settings.abandon_after
            if now - alert.judged >= limit and not alert.over:
                self.finish(alert, "" if user else "No rule judges this any more; the problem may be there still.")

    def settle(self, alert: Alert, now: float) -> None:
        """Freeze the labels once every rank had its chance to join, and to say what it knows of the causes."""
        wait = max(self._settings.group_wait, ANSWERS) if alert.evidence.tentative else self._settings.group_wait
        if alert.settled or now < alert.fired + wait:
            return
        self._label(alert)
        alert.settled = self.urgent = True
        self._history.append(alert, now)
        level = logging.INFO if alert.severity == "info" else logging.WARNING
        log.log(level, "%s fires%s: %s", alert.key.scope.name, render.whereabouts(alert), render.one_line(alert))

    def resolve(self, now: float) -> list[Alert]:
        """End alerts that are over, but none that nobody was told of and nobody silenced; return them."""
        ended: list[Alert] = []
        for scope in list(self.open):
            alerts = self.open[scope]
            for key, alert in list(alerts.items()):
                if alert.over and alert.settled and (alert.announced or alert.muted):
                    self._end(alert, now)
                    del alerts[key]
                    ended.append(alert)
            if not alerts:
                del self.open[scope]
        return ended

    def _end(self, alert: Alert, now: float) -> None:
        alert.end(now)
        self.urgent = True
        if alert.announced:
            self.ended.append(alert)
        else:
            self.close(alert, now)

    def close(self, alert: Alert, now: float) -> None:
        """Receivers know that an alert is over, or never heard of it: it is history."""
        log.info("%s is resolved%s", alert.key.scope.name, render.whereabouts(alert))
        self._history.append(alert, now)
        self.past.append(alert)

    def _label(self, alert: Alert) -> None:
        alert.labels = render.labels_of(alert, self._hostname)
        alert.fingerprint = fingerprint(alert.labels)
