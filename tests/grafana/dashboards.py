"""The committed dashboards, as tests look at them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "grafana" / "dashboards"
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@dataclass(frozen=True)
class Target:
    """One query of one panel."""

    board: str
    panel: str
    kind: str
    expr: str
    instant: bool
    legend: str
    empty: str  # what the panel says where nothing comes back

    def __str__(self) -> str:
        return f"{self.board} · {self.panel}"


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the panels of a dashboard that show something."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def targets() -> Iterator[Target]:
    for uid, board in BOARDS.items():
        for panel in panels(board):
            defaults = panel["fieldConfig"]["defaults"]
            for target in panel["targets"]:
                yield Target(
                    uid,
                    panel["title"],
                    panel["type"],
                    target["expr"],
                    bool(target.get("instant")),
                    target.get("legendFormat", ""),
                    defaults.get("noValue", ""),
                )


def fill(expression: str, variables: Mapping[str, str], seconds: int = 60, step: int = 2) -> str:
    """Return a query as Grafana would send it for a time range of so many seconds."""
    builtin = {"__rate_interval": "10s", "__range_s": str(seconds), "__range": f"{seconds}s", "__interval": f"{step}s"}
    values = {**variables, **builtin}

    def value(match: re.Match[str]) -> str:
        return values.get(match[1] or match[2], match[0])

    return re.sub(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)", value, expression)
