"""A finding as `diagnose` and `backtest` tell it: one JSON line, or text for people."""

from __future__ import annotations

import json
import math

from rankscope.agent.reports.replay import Fired


def line(fired: Fired) -> str:
    """Return one JSON object (CONTRACT of `diagnose --json`): numbers that are not finite are strings, unknown is null."""
    finding = fired.finding
    return json.dumps(
        {
            "rule": fired.rule,
            "severity": fired.severity,
            "run": fired.run,
            "rank": finding.rank,
            "step": finding.step,
            "time": number(finding.time or math.nan, unknown=True),
            "value": number(finding.value),
            "summary": finding.summary,
            "causes": [{"cause": c.cause, "evidence": c.evidence, "fix": c.fix} for c in finding.causes],
            "status": "firing",
        },
        ensure_ascii=False,
    )


def number(value: float | None, unknown: bool = False) -> float | str | None:
    """Return a number as JSON can carry it; with `unknown`, NaN means that nothing is known."""
    if value is None or (unknown and math.isnan(value)):
        return None
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
