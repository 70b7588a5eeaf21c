"""How long a page of metrics takes to render, at 1,000 and 10,000 series."""

from __future__ import annotations

import os
import statistics
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from rankscope.agent.exporters.prometheus import Prometheus
from rankscope.agent.model import Batch, Block, Column, RankInfo, RankKey
from rankscope.agent.runs import metrics
from rankscope.agent.runs.state import Node

ROUNDS = 15
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def node_of(ranks: int, now: float) -> Node:
    """Return a node with ranks that have logged what rules and dashboards read, and some more."""
    node = Node(os.uname().nodename)
    columns = [Column(name) for name in ("loss", "lr", "grad_norm", "val_loss", *(f"m{i}" for i in range(20)))]
    columns += [Column(name, "phase") for name in ("data", "forward", "backward", "optimizer")]
    steps, ago = np.arange(20), np.arange(20, 0, -1, dtype=np.float64)
    for i in range(ranks):
        info = RankInfo(RankKey("bench", f"bench-{i // 8}", i % 8), i + 1, f"bench-{i // 8}", local_rank=i % 8)
        block = Block(tuple(columns), steps, now - ago, np.ones((20, len(columns))))
        node.attach(info, now).apply(Batch(1, 20, (block,)), now)
    return node


def main() -> None:
    now = time.time()
    table = Table(title=f"/metrics, median of {ROUNDS} rounds")
    for column in ("series", "text, ms", "OpenMetrics, ms", "page, KiB"):
        table.add_column(column, justify="right")
    per_rank = len(list(metrics.samples(node_of(1, now), now)))
    for wanted in (1_000, 10_000):
        node, exporter = node_of(max(1, wanted // (per_rank + 12)), now), Prometheus(series_budget=50_000)
        times: dict[str, list[float]] = {"": [], OPENMETRICS: []}
        page = b""
        for _ in range(ROUNDS):
            for accept, taken in times.items():
                started = time.perf_counter()
                page, _ = exporter.render(metrics.samples(node, now), accept)
                taken.append((time.perf_counter() - started) * 1e3)
        medians = [f"{statistics.median(taken):.1f}" for taken in times.values()]
        table.add_row(f"{exporter.series:,}", *medians, f"{len(page) / 1024:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
