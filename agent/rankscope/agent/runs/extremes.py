"""Last, lowest and highest value of every series of a rank, at the price of a few array operations a block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias, cast

import numpy as np

from rankscope.agent.model import Block, Column, FloatArray

JsonNumber: TypeAlias = float | str

NAMES = 5000  # series that are kept; a rank that names ever new ones does not fill the agent's memory


def to_json(value: float) -> JsonNumber:
    """Return a number as JSON can carry it: what is not finite becomes "NaN", "Infinity" or "-Infinity"."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def from_json(value: object) -> float:
    """Return the number that `to_json` wrote. Raises ValueError and TypeError."""
    return float(cast("float | str", value))


class _Table:
    """Figures of the series that come in one row: arrays of k."""

    def __init__(self, k: int) -> None:
        self.touched = 0  # when rows came last, in counts of blocks
        self.step = np.full(k, np.iinfo(np.int64).min, np.int64)
        self.last: FloatArray = np.full(k, np.nan)
        self.bounds: tuple[FloatArray, FloatArray] = (np.full(k, np.inf), np.full(k, -np.inf))
        self.at = (np.zeros(k, np.int64), np.zeros(k, np.int64))  # steps of the bounds

    def update(self, block: Block) -> None:
        """Take rows of k values; extremes are over finite values only, `last` is of the highest step."""
        newest = int(np.argmax(block.step)) if block.late else len(block.step) - 1
        take = slice(None) if not block.late else block.step[newest] >= self.step
        self.step[take] = block.step[newest]
        self.last[take] = block.value[newest][take]
        for sign, best, at in zip((1.0, -1.0), self.bounds, self.at, strict=True):
            value = np.where(np.isfinite(block.value), block.value, sign * np.inf)
            row = value.argmin(axis=0) if sign > 0 else value.argmax(axis=0)
            found = value[row, np.arange(len(row))]
            better = found * sign < best * sign
            if better.any():
                best[better] = found[better]
                at[better] = block.step[row[better]]


class Extremes:
    """Figures of all series of a rank."""

    def __init__(self) -> None:
        self._tables: dict[tuple[Column, ...], _Table] = {}
        self._before: dict[str, dict[str, float]] = {}
        self._blocks = 0

    def update(self, block: Block) -> None:
        if not len(block.step):
            return
        table = self._tables.get(block.columns)
        if table is None:
            if len(self._tables) >= 512:  # rows of ever new shapes: keep the figures, not the arrays
                self._before = self._merged()
                self._tables.clear()
            table = self._tables[block.columns] = _Table(len(block.columns))
        table.update(block)
        if not block.late:
            self._blocks += 1
            table.touched = self._blocks

    def restore(self, known: Mapping[str, object]) -> None:
        """Go on from what `to_json` gave. Raises ValueError, TypeError and KeyError."""
        self._before = {
            name: {key: from_json(value) for key, value in cast("Mapping[str, object]", figures).items()}
            for name, figures in known.items()
        }

    def to_json(self) -> dict[str, dict[str, JsonNumber]]:
        """Return, by name: last, step, min, min_step, max, max_step; extremes are absent without a finite value."""
        return {
            name: {key: int(value) if key.endswith("step") else to_json(value) for key, value in figures.items()}
            for name, figures in self._merged().items()
        }

    def _merged(self) -> dict[str, dict[str, float]]:
        merged = {name: dict(figures) for name, figures in self._before.items()}
        for columns, table in sorted(self._tables.items(), key=lambda item: item[1].touched):
            for i, column in enumerate(columns):
                if column.kind != "scalar" or (len(merged) >= NAMES and column.name not in merged):
                    continue
                figures = merged.setdefault(column.name, {})
                figures["last"], figures["step"] = float(table.last[i]), int(table.step[i])
                for key, best, at in zip(("min", "max"), table.bounds, table.at, strict=True):
                    sign = 1.0 if key == "min" else -1.0
                    value = float(best[i])
                    if math.isfinite(value) and value * sign < figures.get(key, sign * math.inf) * sign:
                        figures[key], figures[f"{key}_step"] = value, int(at[i])
        return merged
