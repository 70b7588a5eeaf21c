"""The metrics about rules, alerts and notifications."""

from __future__ import annotations

from rankscope.agent.model import Metric

RULE_STATE = Metric(
    "rule_state",
    "gauge",
    "1 for the state that a rule's verdict of a run is in: ok, pending, firing or incomplete (cannot tell).",
    ("rule", "run", "state"),
    source="alert engine",
)
ALERT_ACTIVE = Metric(
    "alert_active",
    "gauge",
    "Alerts of the agent: 1 while firing, 0 while pending, absent otherwise.",
    ("alert", "severity", "run", "rank", "gpu"),
    source="alert engine",
)
ALERTS_TOTAL = Metric(
    "alerts_total",
    "counter",
    "Alerts of the agent that fired since it started.",
    ("alert", "severity"),
    source="alert engine",
)
NOTIFICATIONS_TOTAL = Metric(
    "notifications_total",
    "counter",
    "Notifications by what became of them: ok, failed (the receiver refused it), dropped (queue full, or too old).",
    ("receiver", "outcome"),
    source="dispatcher",
)
NOTIFICATIONS_WAITING = Metric(
    "notifications_waiting",
    "gauge",
    "Notifications that are not delivered yet.",
    ("receiver",),
    source="dispatcher",
)

METRICS = (RULE_STATE, ALERT_ACTIVE, ALERTS_TOTAL, NOTIFICATIONS_TOTAL, NOTIFICATIONS_WAITING)
