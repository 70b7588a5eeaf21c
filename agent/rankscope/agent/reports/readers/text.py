"""Reads text logs: lines that name a step and numbers, as `step 120: loss 2.31 lr 1e-3` or `{'loss': 2.3, 'epoch':
1}`.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator
from typing import IO

from rankscope.agent.reports.rows import Row

NUMBER = r"[-+]?(?:\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
STEP = re.compile(
    r"""(?:^|[\s\[({|,'"])(?:global[_ ]?step|training step|steps?|iteration|iters?|it)['"]?\s*[:=#]?\s*"""
    r"""(\d[\d,]*)(?:\s*/\s*\d[\d,]*)?""",
    re.I,
)
PAIR = re.compile(rf"""([A-Za-z_][\w./-]*(?: (?:loss|norm|rate|scale))?)['"]?\s*[:=]?\s*({NUMBER})(?![\w.])""", re.I)
STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d+))?")
RANK = re.compile(r"\brank\s*[:=#]?\s*(\d+)", re.I)
NOT_METRICS = frozenset(("step", "steps", "global_step", "iteration", "iter", "iters", "it", "rank", "of", "info", "e"))


def read(stream: IO[str], bad: list[str]) -> Iterator[Row]:
    """Yield the rows of a log; lines without a step that name a loss count as steps of their own."""
    count = -1
    for line in stream:
        found = STEP.search(line)
        metrics = {name: value for name, value in _pairs(line) if name not in NOT_METRICS}
        if found is None and "loss" not in metrics:
            continue
        if not metrics:
            continue
        count = int(found[1].replace(",", "")) if found is not None else count + 1
        rank = RANK.search(line)
        yield (int(rank[1]) if rank is not None else 0), count, _time(line), metrics, False


def _pairs(line: str) -> Iterator[tuple[str, float]]:
    for name, number in PAIR.findall(line):
        yield name.strip().casefold().replace(" ", "_"), float(number.replace(",", ""))


def _time(line: str) -> float:
    found = STAMP.search(line)
    if found is None:
        return math.nan
    try:
        moment = datetime.datetime.fromisoformat(f"{found[1]} {found[2]}").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return math.nan
    return moment.timestamp() + (float(f"0.{found[3]}") if found[3] else 0.0)
