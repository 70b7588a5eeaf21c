"""Runs made of arrays, and the contract check of a rule: for tests, this project's and third parties'."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rankscope.agent.component import Rule
from rankscope.agent.model import Finding
from rankscope.agent.reports.replay import Fired, Replay
from rankscope.agent.reports.rows import Row, chunk_of

Values: TypeAlias = Sequence[float | None] | NDArray[np.floating[Any]]
START = 1.7e9  # Unix seconds of the first row


def rows_of(
    metrics: Mapping[str, Values],
    *,
    every: int = 1,
    seconds: float | None = 1.0,
    steps: Sequence[int] | None = None,
    rank: int = 0,
) -> list[Row]:
    """Return the rows of one rank: a row each `every` steps and `seconds` (None: a record without a clock).

    `None` in a metric means that it was not logged at that row.
    """
    rows: list[Row] = []
    for i in range(max(len(values) for values in metrics.values())):
        time = START + i * seconds if seconds is not None else math.nan
        logged = {name: values[i] for name, values in metrics.items()}
        present = {name: float(value) for name, value in logged.items() if value is not None}
        rows.append((rank, steps[i] if steps is not None else i * every, time, present, False))
    return rows


def fired_by(rule: Rule, rows: Sequence[Row], size: int = 97, config: Mapping[str, object] | None = None) -> Replay:
    """Put a rule to rows, `size` at a time; return the replay, whose `told` holds what fired."""
    run = Replay([(type(rule).__name__, rule)], "run", config=dict(config or {}))
    for start in range(0, len(rows), size):
        run.told.extend(run.take(chunk_of(rows[start : start + size])))
    return run


def check_rule(
    make: Callable[[], Rule], rows: Sequence[Row], config: Mapping[str, object] | None = None
) -> list[Finding]:
    """Return what a rule finds in a run, after checking the contract of rules. Raises AssertionError.

    The same must fire at the same steps whether points come one by one or in batches, and what fired may not depend on
    what came later.
    """
    batched = findings(fired_by(make(), rows, 97, config).told)
    single = findings(fired_by(make(), rows, 1, config).told)
    steps = [finding.step for finding in batched]
    assert steps == [finding.step for finding in single], "what fires depends on how points are grouped"
    cut = findings(fired_by(make(), rows[: len(rows) * 2 // 3], 97, config).told)
    assert [finding.step for finding in cut] == steps[: len(cut)], "what fires depends on what comes later"
    return batched


def findings(fired: Sequence[Fired]) -> list[Finding]:
    return [one.finding for one in fired]
