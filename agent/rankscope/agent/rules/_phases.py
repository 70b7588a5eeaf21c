"""How a rank spends its steps: seconds of each phase, whoever measured them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.series import Series

NAMES = ("data", "forward", "backward", "optimizer")


@dataclass(frozen=True, slots=True)
class Phases:
    """Medians over the newest steps, in seconds; `step` is the whole step, phases may leave a part of it open."""

    step: float
    seconds: Mapping[str, float]

    def share(self, *phases: str) -> float:
        """Return which share of the step the phases take together."""
        return sum(self.seconds.get(phase, 0.0) for phase in phases) / self.step if self.step > 0 else 0.0

    @property
    def open(self) -> float:
        """The share of the step that no phase accounts for; 0 unless forward and backward are known."""
        known = "forward" in self.seconds and "backward" in self.seconds
        return max(0.0, 1.0 - self.share(*self.seconds)) if known else 0.0


def phase(rank: Rank, name: str) -> Series | None:
    """Return the series of a phase's seconds: what the SDK measured, or what the run logs."""
    return rank.phases.get(name) or rank.role(f"{name}_seconds")


def step_seconds(rank: Rank) -> Series:
    """Return the seconds of each step: what the run logs, or the time between its points."""
    return rank.role("step_seconds") or rank.step_seconds


def phases_of(rank: Rank, points: int = 50) -> Phases | None:
    """Return how a rank spends its newest steps, or None before it made three."""
    steps = step_seconds(rank)
    recent = steps.value[-points:]
    recent = recent[np.isfinite(recent)]
    if len(recent) < 3:
        return None
    names = dict.fromkeys((*NAMES, *rank.phases))
    found = {name: series for name in names if (series := phase(rank, name)) is not None and len(series)}
    seconds = {
        name: float(np.nanmedian(series.value[-points:])) / (steps_a_row(series) if name in rank.phases else 1.0)
        for name, series in found.items()
    }
    return Phases(float(np.median(recent)), seconds)


def steps_a_row(series: Series) -> float:
    """Return how many steps usually lie between the newest points of a series: what is timed adds up over them."""
    apart = np.diff(series.step[-50:])
    apart = apart[apart > 0]
    return float(np.median(apart)) if len(apart) else 1.0
