"""Reads `trainer_state.json`, which Hugging Face's Trainer writes beside each checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import IO, cast

from rankscope.agent.reports.readers.jsonl import row_of
from rankscope.agent.reports.rows import Row


def read(stream: IO[str], bad: list[str]) -> Iterator[Row]:
    """Yield the rows of the file's `log_history`; it has no clock. Raises ValueError when it is no such file."""
    try:
        state = json.load(stream)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    history = cast("dict[str, object]", state).get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise ValueError("no `log_history` in it: is it a trainer_state.json?")
    previous = -1
    for number, entry in enumerate(cast("list[object]", history)):
        row = row_of(cast("dict[str, object]", entry), previous) if isinstance(entry, dict) else None
        if row is None:
            bad.append(f"log_history[{number}]: no step")
            continue
        previous = row[1]
        # The last entry sums the training up: its train_loss is a mean of the whole run, not a loss of this step.
        metrics = {} if "train_runtime" in cast("dict[str, object]", entry) else dict(row[3])
        yield row[0], row[1], math.nan, metrics, False
