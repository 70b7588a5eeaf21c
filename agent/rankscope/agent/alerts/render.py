"""How an alert is written down: labels, annotations, and Alertmanager's webhook payload, version 4."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from urllib.parse import urlencode

from rankscope.agent.alerts.alert import Alert, Evidence
from rankscope.agent.alerts.settings import Settings

SOURCE = "agent"
NO_END = "0001-01-01T00:00:00Z"  # Go's zero time, which Alertmanager writes while no end is known
TEXT_LIMIT = 8000  # characters of one annotation

_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_QUOTE_META = re.compile(r"([\\.+*?()|\[\]{}^$])")


def timestamp(time: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(time, tz=timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def number(value: float | None) -> str:
    """Return a number as people and JSON can take it: `NaN` and `Infinity` are words, "" is no number."""
    if value is None:
        return ""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return f"{value:.6g}"


def ranges(ranks: Sequence[int]) -> str:
    """Return `0-2, 5` for (0, 1, 2, 5); two neighbours stay apart: `0, 1`."""
    parts: list[str] = []
    start = 0
    for i in range(1, len(ranks) + 1):
        if i < len(ranks) and ranks[i] == ranks[i - 1] + 1:
            continue
        run = ranks[start:i]
        parts.extend([f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(rank) for rank in run])
        start = i
    return ", ".join(parts)


def labels_of(alert: Alert, hostname: str) -> dict[str, str]:
    """Return the labels of an alert as they are now; the rank is one of them where exactly one rank has the problem."""
    scope = alert.key.scope
    labels = {name: value for name, value in alert.key.labels if _LABEL_NAME.fullmatch(name)}
    labels.update(alertname=scope.name, severity=alert.severity, source=SOURCE, hostname=hostname)
    labels.update(project=scope.project, run=scope.run, gpu=alert.key.gpu)
    if len(alert.ranks) == 1:
        labels["rank"] = str(alert.ranks[0])
    return {name: value for name, value in sorted(labels.items()) if value}


def annotations_of(alert: Alert, settings: Settings, hostname: str) -> dict[str, str]:
    """Return what an alert has to say; what it has not is left out."""
    evidence = alert.evidence
    causes = [f"{c.cause}: {c.evidence}" if c.evidence else c.cause for c in evidence.causes]
    texts = {
        "summary": _summary(alert),
        "description": _description(alert),
        "value": number(evidence.value),
        "step": "" if evidence.step is None else str(evidence.step),
        "causes": _listed(causes),
        "fixes": _listed(list(dict.fromkeys(c.fix for c in evidence.causes if c.fix))),
        "ranks": ranges(alert.ranks),
        "runbook": settings.runbook.format(
            alertname=alert.key.scope.name, external_url=external_url(settings, hostname)
        ),
    }
    return {name: _short(text) for name, text in texts.items() if text}


def _summary(alert: Alert) -> str:
    """Say which ranks, where the rule's own words do not."""
    summary = alert.evidence.summary
    if not alert.ranks or (len(alert.ranks) == 1 and ("rank" in summary or alert.key.title)):
        return summary
    return f"{summary} (rank{'s' if len(alert.ranks) > 1 else ''} {ranges(alert.ranks)})"


def one_line(alert: Alert) -> str:
    """Return an alert's summary for a log: one line, with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in _summary(alert))[:500]


def whereabouts(alert: Alert) -> str:
    """Return `, run exp-1` and the like, or nothing for what is the node's."""
    parts = [("run", alert.key.scope.run), ("GPU", alert.key.gpu)]
    return "".join(f", {name} {value}" for name, value in parts if value)


def _description(alert: Alert) -> str:
    evidence: Evidence = alert.evidence
    parts = [evidence.description]
    if len(alert.ranks) > 1 and evidence.rank is not None:
        at = "" if evidence.step is None else f" at step {evidence.step}"
        parts.append(f"First on rank {evidence.rank}{at}.")
    if alert.firings > 2:
        parts.append(f"It has come and gone {alert.firings} times; it counts as resolved only after a longer quiet.")
    if alert.state == "resolved":
        parts.append(alert.why_over)
    return "\n".join(part for part in parts if part)


def _listed(lines: Sequence[str]) -> str:
    return lines[0] if len(lines) == 1 else "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


def _short(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def external_url(settings: Settings, hostname: str) -> str:
    return settings.external_url.rstrip("/") or settings.page or f"http://{hostname}:9780"


def generator_url(alert: Alert, settings: Settings, hostname: str) -> str:
    scope = alert.key.scope
    query = {"alert": scope.name, "project": scope.project, "run": scope.run}
    return f"{external_url(settings, hostname)}/?{urlencode({k: v for k, v in query.items() if v})}"


def one(alert: Alert, settings: Settings, hostname: str) -> dict[str, object]:
    """Return one alert of a payload."""
    return {
        "status": "resolved" if alert.state == "resolved" else "firing",
        "labels": dict(alert.labels),
        "annotations": annotations_of(alert, settings, hostname),
        "startsAt": timestamp(alert.fired),
        "endsAt": timestamp(alert.ended) if alert.state == "resolved" else NO_END,
        "generatorURL": generator_url(alert, settings, hostname),
        "fingerprint": alert.fingerprint,
    }


def group_labels(alert: Alert, hostname: str) -> dict[str, str]:
    """Return the labels that alerts are grouped by: name, project and run, or name and host for what is the node's."""
    scope = alert.key.scope
    if scope.run:
        return {"alertname": scope.name, "project": scope.project, "run": scope.run}
    return {"alertname": scope.name, "hostname": hostname}


def group_key(labels: Mapping[str, str]) -> str:
    """Return a group's name as Alertmanager writes it: `{}:{alertname="LossNaN", run="exp-1"}`."""
    inside = ", ".join(f"{name}={json.dumps(labels[name], ensure_ascii=False)}" for name in sorted(labels))
    return f"{{}}:{{{inside}}}"


def payload(
    alerts: Sequence[Mapping[str, object]], labels: Mapping[str, str], reason: str, url: str
) -> dict[str, object]:
    """Return the body of a webhook about these alerts, for a receiver that is named later (`for_receiver`)."""
    return {
        "receiver": "",
        "status": _status(alerts),
        "alerts": list(alerts),
        "notification_reason": reason,
        "groupLabels": dict(labels),
        "commonLabels": _common(alerts, "labels"),
        "commonAnnotations": _common(alerts, "annotations"),
        "routeLabels": {},
        "externalURL": url,
        "version": "4",
        "groupKey": group_key(labels),
        "truncatedAlerts": 0,
    }


def for_receiver(
    payload: Mapping[str, object], alerts: Sequence[Mapping[str, object]], receiver: str
) -> dict[str, object]:
    """Return a payload as one receiver gets it: with its name (quoted as Alertmanager does) and only these alerts."""
    return {
        **payload,
        "receiver": _QUOTE_META.sub(r"\\\1", receiver),
        "status": _status(alerts),
        "alerts": list(alerts),
        "commonLabels": _common(alerts, "labels"),
        "commonAnnotations": _common(alerts, "annotations"),
    }


def _status(alerts: Sequence[Mapping[str, object]]) -> str:
    return "firing" if any(alert["status"] == "firing" for alert in alerts) else "resolved"


def _common(alerts: Sequence[Mapping[str, object]], part: str) -> dict[str, str]:
    sets: list[Mapping[str, str]] = [alert[part] for alert in alerts]  # type: ignore[misc]
    if not sets:
        return {}
    first, *rest = sets
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in rest)}


def detailed(alert: Alert, settings: Settings, hostname: str) -> dict[str, object]:
    """Return one alert with everything that is known of it, for the page and for `top`; also while it is pending."""
    evidence, newest = alert.evidence, alert.newest
    return {
        "state": alert.state,
        "labels": dict(alert.labels),
        "annotations": annotations_of(alert, settings, hostname),
        "fingerprint": alert.fingerprint,
        "activeAt": timestamp(alert.began.time),
        "startsAt": timestamp(alert.fired) if alert.fired else None,
        "endsAt": timestamp(alert.ended) if alert.ended else None,
        "silencedBy": list(alert.silenced_by),
        "inhibitedBy": [alert.inhibited_by] if alert.inhibited_by else [],
        "ranks": list(alert.ranks),
        "step": evidence.step,
        "value": number(evidence.value) or None,
        "newest": {"step": newest.step, "value": number(newest.value) or None, "summary": newest.summary},
        "causes": [{"cause": c.cause, "evidence": c.evidence, "fix": c.fix} for c in evidence.causes],
    }
