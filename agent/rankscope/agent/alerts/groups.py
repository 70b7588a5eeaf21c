"""When a group of alerts is due to be announced, and why: Alertmanager's rules, without its delays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from rankscope.agent.alerts.alert import Alert, Key
from rankscope.agent.alerts.settings import Settings

Reason: TypeAlias = Literal[
    "first notification",
    "new alerts added",
    "some alerts resolved",
    "all alerts resolved",
    "repeat interval elapsed",
]


class Due(NamedTuple):
    """When a group is to be announced (Unix seconds), and what for."""

    time: float
    reason: Reason


def group_of(alert: Alert) -> Key:
    """Return the group of an alert: the same rule and run; an alert that a script raised itself stands alone."""
    return Key(alert.key.scope, title=alert.key.title)


def due(firing: Sequence[Alert], ended: Sequence[Alert], last_sent: float | None, settings: Settings) -> Due | None:
    """Return when to announce a group, or None while there is nothing to say.

    `firing`: its alerts that fire and are not muted; `ended`: those that receivers still hold for firing but that are
    over; `last_sent`: when it was last announced.
    """
    candidates: list[Due] = []
    earliest = -float("inf") if last_sent is None else last_sent + settings.group_interval
    fresh = [alert.seen for alert in firing if not alert.announced]
    if fresh:
        reason: Reason = "first notification" if last_sent is None else "new alerts added"
        candidates.append(Due(max(min(fresh) + settings.group_wait, earliest), reason))
    if ended:
        reason = "some alerts resolved" if firing else "all alerts resolved"
        candidates.append(Due(max(min(alert.ended for alert in ended) + settings.group_wait, earliest), reason))
    if firing and last_sent is not None:
        candidates.append(Due(last_sent + settings.repeat_interval, "repeat interval elapsed"))
    return min(candidates, default=None)
