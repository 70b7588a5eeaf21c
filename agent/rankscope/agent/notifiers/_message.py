"""What a chat message about a group of alerts says, before a service's own mark-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from rankscope.agent.model import SEVERITIES

Tone: TypeAlias = Literal["critical", "warning", "info", "resolved"]

COLOURS: Mapping[Tone, str] = {"critical": "#C4162A", "warning": "#E0851A", "info": "#1F60C4", "resolved": "#37872D"}
MOST = 5  # alerts that are told in full
FACT_LIMIT = 800  # characters of one thing that is told: a long description must not push out the fixes
SIGNS: Mapping[Tone, str] = {"critical": "🔴", "warning": "🟠", "info": "🔵", "resolved": "✅"}


@dataclass(frozen=True, slots=True)
class Item:
    """One alert: its summary, and what else there is to say under short names."""

    summary: str
    facts: tuple[tuple[str, str], ...]
    resolved: bool


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; `more` counts the alerts that it leaves out."""

    tone: Tone
    title: str
    items: tuple[Item, ...]
    more: int
    link: str


def message(payload: Mapping[str, object]) -> Message | None:
    """Return what to say about a webhook payload, or None where there is nothing to say.

    An alert that a training script raised itself is an event: nobody wants to read that it is over.
    """
    alerts = cast("Sequence[Mapping[str, object]]", payload["alerts"])
    labels = [cast("Mapping[str, str]", alert["labels"]) for alert in alerts]
    resolved = payload["status"] == "resolved"
    if resolved and all(label.get("alertname") == "UserAlert" for label in labels):
        return None
    severity = max((label.get("severity", "info") for label in labels), key=_gravity)
    tone: Tone = "resolved" if resolved else cast(Tone, severity if severity in SEVERITIES else "warning")
    first = labels[0]
    count = sum(1 for alert in alerts if alert["status"] == payload["status"])
    title = " ".join(
        part
        for part in (
            SIGNS[tone],
            "resolved:" if resolved else f"{severity}:",
            first.get("alertname", "alert"),
            f"({count})" if count > 1 else "",
            f"· {first['run']}" if first.get("run") else f"· {first.get('hostname', '')}",
        )
        if part
    )
    items = tuple(_item(alert) for alert in alerts[:MOST])
    return Message(tone, title, items, max(0, len(alerts) - MOST), str(alerts[0].get("generatorURL", "")))


def _item(alert: Mapping[str, object]) -> Item:
    labels = cast("Mapping[str, str]", alert["labels"])
    notes = cast("Mapping[str, str]", alert["annotations"])
    resolved = alert["status"] == "resolved"
    told = ("project", "hostname", "gpu") if resolved else ("project", "hostname", "gpu", "rank")
    facts = [(name, labels[name]) for name in told if labels.get(name)]
    shown = ("step",) if resolved else ("step", "value", "ranks", "description", "causes", "fixes")
    facts += [(name, notes[name]) for name in shown if notes.get(name) and not (name == "ranks" and "rank" in labels)]
    summary = cut(notes.get("summary", labels.get("alertname", "")), FACT_LIMIT)
    return Item(summary, tuple((name, cut(text, FACT_LIMIT)) for name, text in facts), resolved)


def _gravity(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else -1


def cut(text: str, limit: int) -> str:
    """Return at most `limit` characters of a text, with a sign where it was cut."""
    return text if len(text) <= limit else text[: max(0, limit - 1)] + "…"


def cut_bytes(text: str, limit: int) -> str:
    """Return a text of at most `limit` bytes in UTF-8, with a sign where it was cut."""
    data = text.encode()
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "…"
