"""From alerts to notifications: what is announced now, of which group, and why."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from rankscope.agent.alerts import render
from rankscope.agent.alerts.alert import Alert, Key
from rankscope.agent.alerts.groups import due, group_of
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Notification


class Announcing:
    """Remembers when each group was last announced (Unix seconds), and makes the notifications that are due."""

    def __init__(self, settings: Settings, hostname: str, groups: Mapping[Key, float]) -> None:
        self.groups = dict(groups)
        self._settings = settings
        self._hostname = hostname

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds."""
        self.groups = {group: sent + seconds for group, sent in self.groups.items()}

    def announce(
        self, firing: Sequence[Alert], ended: Sequence[Alert], now: float
    ) -> tuple[list[Notification], list[Alert]]:
        """Return the notifications that are due, and which of the `ended` alerts they speak of."""
        members: dict[Key, tuple[list[Alert], list[Alert]]] = {}
        for alert in firing:
            members.setdefault(group_of(alert), ([], []))[0].append(alert)
        for alert in ended:
            members.setdefault(group_of(alert), ([], []))[1].append(alert)
        for gone in self.groups.keys() - members.keys():
            del self.groups[gone]
        notifications: list[Notification] = []
        told: list[Alert] = []
        for group, (alive, over) in members.items():
            # One whose labels may still change is not told of yet, however soon its group speaks.
            audible = [alert for alert in alive if alert.settled and not alert.muted]
            if (next_ := due(audible, over, self.groups.get(group), self._settings)) and next_.time <= now:
                notifications.append(self._notification(audible, over, next_.reason))
                self.groups[group] = now
                told += over
        return notifications, told

    def _notification(self, firing: Sequence[Alert], ended: Sequence[Alert], reason: str) -> Notification:
        for alert in firing:
            alert.announced = True
            if reason == "repeat interval elapsed":
                alert.evidence = alert.newest
        alerts = [*sorted(firing, key=_by_labels), *sorted(ended, key=_by_labels)]
        return self.notification(alerts, render.group_labels(alerts[0], self._hostname), reason)

    def notification(self, alerts: Sequence[Alert], labels: Mapping[str, str], reason: str) -> Notification:
        """Return a new notification about these alerts."""
        bodies = [render.one(alert, self._settings, self._hostname) for alert in alerts]
        url = render.external_url(self._settings, self._hostname)
        return Notification(uuid.uuid4().hex, render.payload(bodies, labels, reason, url))


def _by_labels(alert: Alert) -> list[tuple[str, str]]:
    return sorted(alert.labels.items())
