"""The numbers of a run around a step: what causes take their evidence from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rankscope.agent.model import FloatArray
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run


@dataclass(frozen=True, slots=True)
class Around:
    """One rank of a run at a step; `time` in Unix seconds, NaN where the record has no clock."""

    node: Node
    run: Run | None
    rank: Rank
    step: int
    time: float

    def before(self, role: str, points: int = 32) -> FloatArray:
        """Return the newest values of a role at steps before this one, oldest first; empty where there are none."""
        series = self.rank.role(role)
        if series is None:
            return np.empty(0)
        step, value = series.step, series.value
        end = len(step)
        if end and step[-1] >= self.step:
            later = np.flatnonzero(step >= self.step)
            end = int(later[0]) if len(later) else end
        return value[max(0, end - points) : end]

    def at(self, role: str) -> float | None:
        """Return the value of a role at this step, or None."""
        series = self.rank.role(role)
        if series is None:
            return None
        found = np.flatnonzero(series.step == self.step)
        return float(series.value[found[-1]]) if len(found) else None

    def recent(self, role: str) -> float | None:
        """Return the newest finite value of a role up to this step, or None."""
        values = self.before(role, 16)
        at = self.at(role)
        if at is not None and math.isfinite(at):
            return at
        values = values[np.isfinite(values)]
        return float(values[-1]) if len(values) else None

    def usual(self, role: str, points: int = 64) -> float | None:
        """Return the median of the finite values of a role before this step, or None with fewer than three."""
        values = self.before(role, points)
        values = values[np.isfinite(values)]
        return float(np.median(values)) if len(values) >= 3 else None

    def peak(self, role: str, points: int = 8) -> float | None:
        """Return the largest value of a role just before and at this step (infinity and NaN count), or None."""
        values = self.before(role, points)
        at = self.at(role)
        values = np.append(values, at) if at is not None else values
        if not len(values):
            return None
        return math.inf if not np.isfinite(values).all() else float(values.max())

    def over_ranks(self, role: str) -> Mapping[int, float]:
        """Return the values of a role at this step by rank."""
        if self.run is None:
            return {}
        ranks = {
            number: Around(self.node, self.run, rank, self.step, self.time) for number, rank in self.run.ranks.items()
        }
        found = {number: there.at(role) for number, there in ranks.items()}
        return {number: value for number, value in found.items() if value is not None}

    @property
    def config(self) -> Mapping[str, object]:
        return self.rank.info.config

    def setting(self, *words: str) -> tuple[str, object] | None:
        """Return the first entry of the run's configuration whose key contains one of the words."""
        for key, value in self.config.items():
            if any(word in key.casefold() for word in words):
                return key, value
        return None

    @property
    def precision(self) -> str | None:
        """`fp16`, `bf16` or `fp32` where the run's configuration or its metrics tell, else None."""
        for key, value in self.config.items():
            name, text = key.casefold(), str(value).casefold()
            if name in ("fp16", "bf16") and value is True:
                return name
            if any(word in name for word in ("dtype", "precision", "amp")):
                if "bf16" in text or "bfloat16" in text:
                    return "bf16"
                if "fp16" in text or "float16" in text or text in ("16", "half", "16-mixed"):
                    return "fp16"
                if "32" in text:
                    return "fp32"
        return "fp16" if self.rank.role("grad_scale") is not None else None


def figure(value: float) -> str:
    """Return a number as people read it: four digits."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    return f"{value:.4g}"


def names(ranks: list[int]) -> str:
    """Return `rank 3` or `ranks 0, 1 and 5`; long lists are cut."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = [str(rank) for rank in ranks[:8]]
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"ranks {', '.join(shown[:-1])} and {shown[-1]}" if not more else f"ranks {', '.join(shown)}{more}"
