"""What fires: since when, where, why most likely, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, chop_cells
from rich.text import Text

from rankscope.agent.terminal.section import SEVERITIES, Frame, Section
from rankscope.agent.terminal.seen import Alert, Seen
from rankscope.agent.terminal.words import counted, duration

LATELY = 3600.0  # seconds for which an alert that is over is still shown
RESOLVED = 5  # of them at a time
DETAIL = 2  # lines for a cause, and for a fix


def section(seen: Seen, frame: Frame) -> Section:
    """Return what fires, the gravest first with its cause and fix, then what is pending or lately over."""
    firing = [alert for alert in seen.alerts if alert.state == "firing"]
    loud = [alert for alert in firing if not alert.silenced]
    several = len({alert.run for alert in (*seen.alerts, *seen.resolved)} | {run.id for run in seen.runs}) > 1
    rest = [_head(alert, frame, several) for alert in firing if alert.silenced]
    rest += _pending([alert for alert in seen.alerts if alert.state == "pending"], frame)
    rest += _lately(seen.resolved, frame, several)
    details = [_details(alert, frame) for alert in loud]

    def draw(room: int) -> list[Text]:
        if not loud:
            return [Text("no alert fires", "green"), *rest][:room]
        heads = [_head(alert, frame, several) for alert in loud]
        if len(heads) > room:
            return [*heads[: room - 1], _more(loud[room - 1 :])][:room]
        left = room - len(heads)
        drawn: list[Text] = []
        for head, detail in zip(heads, details, strict=True):
            drawn += [head, *detail[:left]]
            left -= len(detail[:left])
        return drawn + rest[:left]

    title = Text.assemble(
        ("Alerts", "bold"), (f"  {len(loud)} firing", SEVERITIES.get(loud[0].severity, "")) if loud else ""
    )
    wanted = max(1, len(loud)) + sum(map(len, details)) + len(rest)
    return Section(title, wanted, min(len(loud), 3) + (2 if loud else 1), draw)


def _head(alert: Alert, frame: Frame, several: bool, times: int = 1) -> Text:
    """Return an alert's line. `several`: say of which run it is; `times`: how often it was, where it is over."""
    over = alert.state == "resolved"
    word = "resolved" if over else "silenced" if alert.silenced else alert.severity
    style = "green" if over else "dim" if alert.silenced else SEVERITIES.get(alert.severity, "")
    quiet = "dim" if over or alert.silenced else ""
    when = (alert.until if over else alert.since) or frame.now
    line = Text.assemble((f"{word:8}", style), (f"  {duration(frame.now - when):>7}", quiet))
    line.append("  ").append(alert.name, quiet or style)
    line.append(f" {times} times" if times > 1 else "", "dim")
    summary = Text("  " + alert.summary, quiet)
    where = " ".join(filter(None, [alert.run, f"GPU {alert.gpu}" if alert.gpu else ""]))
    if where and (several or line.cell_len + summary.cell_len + 2 + cell_len(where) <= frame.width):
        summary.truncate(max(12, frame.width - line.cell_len - 2 - cell_len(where)), overflow="ellipsis")
        summary.append("  " + where, "dim")
    line.append_text(summary)
    line.no_wrap = True
    line.truncate(frame.width, overflow="ellipsis")
    return line


def _details(alert: Alert, frame: Frame) -> list[Text]:
    cause = f"{alert.cause}: {alert.evidence}" if alert.evidence else alert.cause
    return _wrapped("why", cause, frame) + _wrapped("fix", alert.fix, frame)


def _wrapped(word: str, words: str, frame: Frame) -> list[Text]:
    """Return words in at most DETAIL lines behind a word that says what they are."""
    margin = 16
    room = max(20, frame.width - margin)
    folded = _folded(words, room)
    if len(folded) > DETAIL:
        folded = [*folded[: DETAIL - 1], " ".join(folded[DETAIL - 1 :])]
    found: list[Text] = []
    for i, part in enumerate(folded):
        line = Text.assemble((f"{word if i == 0 else '':>{margin - 2}}  ", "dim"), part, no_wrap=True)
        line.truncate(frame.width, overflow="ellipsis")
        found.append(line)
    return found


def _folded(words: str, room: int) -> list[str]:
    found: list[str] = []
    for word in words.split():
        if found and cell_len(found[-1]) + 1 + cell_len(word) <= room:
            found[-1] += " " + word
        else:
            found += chop_cells(word, room)
    return found


def _lately(resolved: Sequence[Alert], frame: Frame, several: bool) -> list[Text]:
    """Return what was lately over, once for each rule of each run."""
    found: dict[tuple[str, str, str], list[Alert]] = {}
    for alert in resolved:
        if alert.until is not None and frame.now - alert.until < LATELY:
            found.setdefault((alert.name, alert.project, alert.run), []).append(alert)
    return [_head(alike[0], frame, several, len(alike)) for alike in list(found.values())[:RESOLVED]]


def _pending(alerts: Sequence[Alert], frame: Frame) -> list[Text]:
    if not alerts:
        return []
    line = Text(f"not yet firing: {', '.join(dict.fromkeys(alert.name for alert in alerts))}", "dim")
    line.truncate(frame.width, overflow="ellipsis")
    return [line]


def _more(alerts: Sequence[Alert]) -> Text:
    return Text(f"+ {len(alerts)} more: {counted([alert.severity for alert in alerts])}", "bold")
