"""Reads CSV: a line a step, with a header of names."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from typing import IO

from rankscope.agent.reports.readers.names import RANK, STEP, TIME, column
from rankscope.agent.reports.rows import Row


def read(stream: IO[str], bad: list[str]) -> Iterator[Row]:
    """Yield the rows of a CSV stream; empty cells were not logged. Without a column of steps, lines are steps."""
    head = stream.readline()
    delimiter = max(",;\t", key=head.count)
    names = next(csv.reader([head], delimiter=delimiter), list[str]())
    names = [name.strip() for name in names]
    step_name, time_name, rank_name = column(names, STEP), column(names, TIME), column(names, RANK)
    if len(names) < 2 and step_name is None and not names:
        return
    special = {step_name, time_name, rank_name}
    for number, cells in enumerate(csv.reader(stream, delimiter=delimiter), 2):
        values: dict[str, float] = {}
        for name, cell in zip(names, cells, strict=False):
            value = parse(cell)
            if value is not None:
                values[name] = value
        step = values.get(step_name, math.nan) if step_name is not None else float(number - 2)
        if not math.isfinite(step):
            if any(cell.strip() for cell in cells):
                bad.append(f"line {number}: no step")
            continue
        time = values.get(time_name, math.nan) if time_name is not None else math.nan
        rank = values.get(rank_name, 0.0) if rank_name is not None else 0.0
        yield int(rank), int(step), time, {n: v for n, v in values.items() if n not in special}, False


def parse(cell: str) -> float | None:
    """Return the number in a cell, or None."""
    try:
        return float(cell)
    except ValueError:
        return None
