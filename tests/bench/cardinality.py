"""How many series a node gives Prometheus: 8 GPUs, one run of 8 ranks, everything that samplers, rules and SDK tell."""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rankscope.agent.component import Sampler, discover
from rankscope.agent.exporters.prometheus import Prometheus
from rankscope.agent.model import Batch, Block, Column, Heartbeat, Histogram, RankInfo, RankKey, Sample
from rankscope.agent.runs import metrics
from rankscope.agent.runs.state import Node
from rankscope.agent.telemetry import Telemetry

RANKS = 8
CARD = Path(__file__).resolve().parents[1] / "nvml" / "scenarios" / "h100.scenario"
NAMES = ("loss", "val_loss", "lr", "grad_norm", "tokens_per_second", "mfu")
PHASES = ("data", "forward", "backward", "optimizer", "eval", "checkpoint")


def eight_cards(text: str) -> str:
    """Return a scenario with its first card eight times."""
    head, card, *_ = re.split(r"^card$", text, flags=re.MULTILINE)
    uuid = re.search(r"GPU-[0-9a-f]{7}", card)
    assert uuid is not None
    return head + "".join("card" + card.replace(uuid[0], uuid[0][:-1] + str(i)) for i in range(RANKS))


def training(node: Node, now: float) -> None:
    """Let the ranks of one run log what a usual training logs."""
    columns = (*(Column(name) for name in NAMES), *(Column(name, "phase") for name in PHASES))
    steps = np.arange(50)
    times = now - 50 + steps.astype(np.float64)
    for i in range(RANKS):
        info = RankInfo(RankKey("bench", "bench", i), i + 1, "bench", local_rank=i, world_size=RANKS)
        rank = node.attach(info, now)
        rank.apply(Batch(1, 50, (Block(columns, steps, times, np.ones((50, len(columns)))),)), now)
        rank.beat(Heartbeat(now, 50, "", 0, {"queue": 0}, {"0.5": 1e-6, "0.99": 1e-5}, 0.001), now)


def collected(node: Node, telemetry: Telemetry, now: float, scenario: str) -> list[Sample]:
    for name, kind in discover("rankscope.agent.samplers").items():
        sampler: Sampler = kind(source="simulated", scenario=scenario) if name == "gpu" else kind()
        try:
            for _ in range(2):  # what needs two looks
                node.observe(name, sampler.sample(node), now)
        finally:
            sampler.close()
        telemetry.sampled(name, 0.001, None, now)
    return [
        *telemetry.samples(node),
        *metrics.samples(node, now),
        *(s for given in node.samples.values() for s in given),
    ]


def main() -> None:
    now = time.time()
    node, telemetry = Node("bench"), Telemetry()
    training(node, now)
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder, "eight.scenario")
        scenario.write_text(eight_cards(CARD.read_text()))
        samples = collected(node, telemetry, now, str(scenario))
    page = Prometheus(hostname="bench")
    body, _ = page.render(samples)
    areas: Counter[str] = Counter()
    for sample in samples:
        size = len(sample.value.bounds) + 3 if isinstance(sample.value, Histogram) else 1
        areas[sample.metric.name.split("_")[0]] += size
    table = Table(title=f"series of a node with {RANKS} GPUs and one run of {RANKS} ranks")
    for column in ("metrics", "series", "1,000 nodes"):
        table.add_column(column, justify="left" if column == "metrics" else "right")
    for area, count in areas.most_common():
        table.add_row(f"rankscope_{area}_…", f"{count:,}", f"{count * 1000:,}")
    table.add_row("all", f"{page.series:,}", f"{page.series * 1000:,}", style="bold")
    Console().print(table, f"page: {len(body) / 1024:.0f} KiB, {len(body) / page.series:.0f} bytes a series")
    rate = page.series * 1000 / 15
    Console().print(f"at a scrape every 15 s, 1,000 nodes are {rate:,.0f} samples a second")


if __name__ == "__main__":
    main()
