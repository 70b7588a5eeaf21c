"""What the rules cost: one second of a node with 64 ranks × 20 metrics, early and late in a run, and a long log."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from rankscope.agent.commands.diagnose import default_rules
from rankscope.agent.component import Rule
from rankscope.agent.model import Batch, Block, Column, RankInfo, RankKey
from rankscope.agent.reports.readers.opening import find
from rankscope.agent.reports.replay import Replay
from rankscope.agent.runs.state import Node

RANKS = 64
NAMES = (
    "loss", "val_loss", "lr", "grad_norm", "samples_per_second", "tokens_per_second", "accuracy", "epoch", "grad_scale",
    "dead_frac", "saturated_frac", "unchanged_frac", "update_ratio", "grad_norm_first", "grad_norm_last", "gpu_util",
    "moe/aux_loss", "entropy", "kl", "reward",
)  # fmt: skip
PHASES = ("data", "forward", "backward", "optimizer")
COLUMNS = (*map(Column, NAMES), *(Column(name, "phase") for name in PHASES))
ROUNDS = 30  # seconds that are measured


def block(rng: np.random.Generator, first: int, rows: int, began: float) -> Block:
    """Rows of a run that is well."""
    step = np.arange(first, first + rows)
    value = rng.normal(1.0, 0.05, (rows, len(COLUMNS)))
    value[:, 0] += 2 / (1 + step / 500)
    value[:, 2], value[:, 8], value[:, 11], value[:, 12] = 1e-3, 65536, 0, 1e-3
    value[:, 9:11] = 0.1
    value[:, 15] = 0.9
    value[:, len(NAMES) :] = (0.02, 0.3, 0.5, 0.1)
    return Block(COLUMNS, step, began + step.astype(float), value)


def second(history: int) -> tuple[float, float]:
    """Return the CPU seconds of judging one second of a run `history` steps old: median and worst."""
    rng = np.random.default_rng(1)
    node, rules, began = Node("bench"), default_rules(), 1.7e9
    ranks = [node.attach(RankInfo(RankKey("p", "r", i), 1, "id", world_size=RANKS), began) for i in range(RANKS)]
    run = node.runs["p", "r"]
    for first in range(0, history, 500):
        for rank in ranks:
            rank.apply(Batch(0, 0, (block(rng, first, min(500, history - first), began),)), began + first)
        judge(rules, node, run, began + first)
    spent: list[float] = []
    for step in range(history, history + ROUNDS):
        for rank in ranks:
            rank.apply(Batch(0, 0, (block(rng, step, 1, began),)), began + step)
        start = time.process_time()
        judge(rules, node, run, began + step)
        spent.append(time.process_time() - start)
    return statistics.median(spent), max(spent)


def judge(rules: list[tuple[str, Rule]], node: Node, run: object, now: float) -> None:
    for _, rule in rules:
        rule.check(node, run, now)  # type: ignore[arg-type]


def log(rows: int) -> tuple[float, int]:
    """Return the CPU seconds of diagnosing a JSONL log of so many steps, and its size in bytes."""
    rng = np.random.default_rng(2)
    loss = 0.5 + 2 / (1 + np.arange(rows) / 2e4) + 0.05 * rng.standard_normal(rows)
    norm = np.abs(1 + 0.2 * rng.standard_normal(rows))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.jsonl")
        with path.open("w") as file:
            for i in range(rows):
                row = {"step": i, "t": 1.7e9 + i, "loss": round(loss[i], 5), "lr": 1e-3, "grad_norm": round(norm[i], 4)}
                file.write(json.dumps(row) + "\n")
        size = path.stat().st_size
        start = time.process_time()
        for _ in Replay(default_rules(), "log").feed(find(path)[0].rows()):
            pass
        return time.process_time() - start, size


def main() -> None:
    print(
        f"all {len(default_rules())} rules over {RANKS} ranks × {len(NAMES)} metrics and {len(PHASES)} "
        "phases, a step a second"
    )
    print(f"{'steps so far':>14} {'CPU a second, median':>22} {'worst':>10}")
    for history in (500, 5000):
        median, worst = second(history)
        print(f"{history:>14,} {100 * median:>20.2f} % {100 * worst:>8.2f} %")
    rows = 100_000
    spent, size = log(rows)
    print(
        f"\ndiagnose of JSONL: {rows / spent:,.0f} steps a second of CPU, {1e6 / rows * spent:.0f} s for a "
        f"million ({size / 1e6:.0f} MB here)"
    )


if __name__ == "__main__":
    main()
