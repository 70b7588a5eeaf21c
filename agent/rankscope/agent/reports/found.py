"""A finding as `diagnose` and `backtest` tell it: one JSON line, or text for people."""

from __future__ import annotations

import datetime
import json
import math

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from rankscope.agent.reports.replay import Fired, Replay

COLOURS = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
CLOCK = 1e8  # Unix seconds below which a time only counts from the start of the run


def line(fired: Fired) -> str:
    """Return one JSON object: numbers that are not finite are strings, what is not known is null."""
    finding = fired.finding
    return json.dumps(
        {
            "rule": fired.rule,
            "severity": fired.severity,
            "run": fired.run,
            "rank": finding.rank,
            "step": finding.step,
            "time": _known(finding.time),
            "value": number(finding.value),
            "summary": finding.summary,
            "causes": [{"cause": c.cause, "evidence": c.evidence, "fix": c.fix} for c in finding.causes],
            "status": "firing",
        },
        ensure_ascii=False,
    )


def number(value: float | None) -> float | str | None:
    """Return a number as JSON can carry it."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _known(time: float) -> float | None:
    return time if time and math.isfinite(time) else None


def tell(console: Console, fired: Fired, ranks: bool) -> None:
    """Print a finding for people: what, where, and the causes with their evidence and what to do."""
    finding = fired.finding
    head = Text()
    head.append(f"{fired.severity:8} ", COLOURS[fired.severity])
    head.append(fired.rule, "bold")
    where = f"  step {finding.step}" if finding.step is not None else ""
    where += f"  rank {finding.rank}" if ranks and finding.rank is not None else ""
    where += _clock(finding.time)
    head.append(where, "dim")
    console.print(head)
    console.print(Padding(Text(finding.summary), (0, 0, 0, 9)))
    for place, cause in enumerate(finding.causes, 1):
        console.print(Padding(Text.assemble((f"{place}. ", "dim"), (cause.cause, "bold")), (0, 0, 0, 9)))
        console.print(Padding(Text(cause.evidence, "dim"), (0, 0, 0, 12)))
        console.print(Padding(Text.assemble(("→ ", "green"), cause.fix), (0, 0, 0, 12)))
    console.print()


def _clock(time: float) -> str:
    if not time or not math.isfinite(time):
        return ""
    if time < CLOCK:
        return f"  {datetime.timedelta(seconds=round(time))} into the run"
    return f"  {datetime.datetime.fromtimestamp(time).astimezone():%Y-%m-%d %H:%M:%S}"


def sum_up(console: Console, replay: Replay, found: int, bad: list[str]) -> None:
    """Print how much was looked at, and which rules could not judge for want of what."""
    verdict = Text("nothing found", "green") if not found else Text(f"{found} found", "bold")
    console.print(Text.assemble(verdict, (f" in {replay.rows:,} rows", "dim")), highlight=False)
    reasons: dict[str, list[str]] = {}
    for rule, reason in sorted(replay.lacking.items()):
        reasons.setdefault(reason, []).append(rule)
    if reasons:
        console.print("not judged:", style="dim")
        for reason, rules in reasons.items():
            console.print(Padding(Text(f"{', '.join(rules)}: {reason}", "dim"), (0, 0, 0, 2)))
    if bad:
        console.print(Text(f"{len(bad)} lines could not be read, the first: {bad[0]}", "yellow"))
