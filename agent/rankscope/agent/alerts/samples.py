"""The states of rules and alerts as samples of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from rankscope.agent.alerts.alert import Alert, Scope
from rankscope.agent.alerts.metrics import ALERT_ACTIVE, ALERTS_TOTAL, RULE_STATE
from rankscope.agent.model import Sample, Severity

RuleState: TypeAlias = Literal["ok", "pending", "firing", "incomplete"]


def state_of(alerts: Iterable[Alert]) -> RuleState:
    """Return the state of a rule whose open alerts these are."""
    states = {alert.state for alert in alerts}
    return "firing" if "firing" in states else "pending" if states else "ok"


def samples(
    states: Mapping[Scope, RuleState], alerts: Iterable[Alert], fired: Mapping[tuple[str, Severity], int]
) -> list[Sample]:
    """Return one sample a rule and run, one an open alert, and one a counter of alerts that fired."""
    rules = {(scope.name, scope.run, state) for scope, state in states.items()}
    active: dict[tuple[str, ...], float] = {}
    for alert in alerts:
        # Alerts that differ in other labels only, or in nothing but their title, are one series.
        key = (alert.key.scope.name, alert.severity, alert.key.scope.run, alert.labels.get("rank", ""), alert.key.gpu)
        active[key] = max(active.get(key, 0.0), float(alert.state == "firing"))
    return [
        *(Sample(RULE_STATE, 1.0, labels) for labels in sorted(rules)),
        *(Sample(ALERT_ACTIVE, value, labels) for labels, value in sorted(active.items())),
        *(Sample(ALERTS_TOTAL, float(count), labels) for labels, count in sorted(fired.items())),
    ]
