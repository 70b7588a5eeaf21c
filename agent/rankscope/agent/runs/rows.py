"""Rows of the catalogue of runs and ranks: a metric, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rankscope.agent.model import Histogram, Metric
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.readings import Context, Readings
from rankscope.agent.runs.state import Run

RUN = ("run",)
RANK = ("run", "rank")


@dataclass(frozen=True, slots=True)
class RunRow:
    metric: Metric
    read: Callable[[Run, Context], Readings]


@dataclass(frozen=True, slots=True)
class RankRow:
    metric: Metric
    read: Callable[[Rank, Context], Readings]


def one(value: float | Histogram | None) -> Readings:
    if value is not None:
        yield (), value


def run_row(
    name: str, unit: str, text: str, read: Callable[[Run, Context], float | None], source: str = "agent"
) -> RunRow:
    return RunRow(Metric(name, "gauge", text, RUN, unit, source), lambda run, at: one(read(run, at)))


def rank_row(
    name: str, unit: str, text: str, read: Callable[[Rank, Context], float | None], source: str = "step event"
) -> RankRow:
    kind: Literal["counter", "gauge"] = "counter" if name.endswith("_total") else "gauge"
    return RankRow(Metric(name, kind, text, RANK, unit, source), lambda rank, at: one(read(rank, at)))


def role_row(name: str, role: str, unit: str, text: str, source: str = "step event") -> RankRow:
    def read(rank: Rank, at: Context) -> float | None:
        series = rank.role(role)
        return series.last if series is not None and len(series) else None

    return rank_row(name, unit, text, read, source)
