"""What the alert engine costs: 32 rules judged once a second and ten ticks, on a run with 64 ranks."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rankscope.agent.alerts.engine import Alerts
from rankscope.agent.alerts.outbox import Outbox
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.fakes import FixedRule, a_notification, a_run
from rankscope.agent.model import Cause, Finding, Incomplete, Verdict

RANKS, RULES, TICKS, ROUNDS = 64, 32, 10, 200
CAUSES = (Cause("the learning rate is too high", "lr 0.3 at step 100", "lower it"),) * 3


def nan(ranks: int) -> Verdict:
    return tuple(
        Finding("loss is NaN at step 100", step=100, rank=r, value=float("nan"), causes=CAUSES) for r in range(ranks)
    )


SCENES: dict[str, Callable[[int, int], Verdict]] = {
    "all is well": lambda rule, second: (),
    "half of the rules cannot tell": lambda rule, second: Incomplete("no data") if rule % 2 else (),
    "a NaN on 64 ranks": lambda rule, second: nan(RANKS) if rule == 0 else (),
    "every rule fires on 64 ranks": lambda rule, second: nan(RANKS),
    "every rule comes and goes": lambda rule, second: nan(RANKS) if second % 20 < 10 else (),
}


def scene(verdict: Callable[[int, int], Verdict], folder: Path) -> tuple[float, float, float, float]:
    """Return CPU milliseconds a second (median and worst), those of the metrics, and the fsyncs' wall milliseconds."""
    alerts = Alerts("node-1", folder, Settings(), runs_dir=folder / "runs")
    _, run = a_run(RANKS)
    rules = [(f"Rule{i}", FixedRule()) for i in range(RULES)]
    now, costs, metrics, walls = 1e9, list[float](), list[float](), list[float]()
    for second in range(ROUNDS):
        said = [verdict(i, second) for i in range(RULES)]
        begin, wall = time.process_time(), time.perf_counter()
        for (name, rule), what in zip(rules, said, strict=True):
            alerts.judge(name, rule, run, what, now)
        for _ in range(TICKS):
            now += 1 / TICKS
            alerts.tick(now)
        costs.append((time.process_time() - begin) * 1e3)
        walls.append((time.perf_counter() - wall) * 1e3)
        begin = time.process_time()
        alerts.samples()
        metrics.append((time.process_time() - begin) * 1e3)
    return statistics.median(costs), max(costs), statistics.median(metrics), max(walls)


def queue(folder: Path, count: int = 200) -> tuple[float, float]:
    """Return the microseconds to put one notification on disk, and to take it off."""
    outbox = Outbox(folder / "queue.jsonl")
    notifications = [a_notification() for _ in range(count)]
    begin = time.perf_counter()
    for notification in notifications:
        outbox.put(notification, 0.0)
    between = time.perf_counter()
    while (entry := outbox.head()) is not None:
        outbox.done(entry.notification.id)
    end = time.perf_counter()
    return (between - begin) / count * 1e6, (end - between) / count * 1e6


def main() -> None:
    logging.getLogger("rankscope").setLevel(logging.ERROR)  # it would say what fires
    table = Table(title=f"Alert engine: {RULES} rules × {RANKS} ranks, judged once a second, ticked {TICKS} times")
    for column in ("scene", "CPU of one core", "worst second", "metrics", "worst second, wall (with disk)"):
        table.add_column(column, justify="left" if column == "scene" else "right")
    for name, verdict in SCENES.items():
        with tempfile.TemporaryDirectory() as folder:
            cost, worst, metrics, wall = scene(verdict, Path(folder))
        table.add_row(name, f"{cost / 10:.3f} %", f"{worst:.1f} ms", f"{metrics:.2f} ms", f"{wall:.1f} ms")
    console = Console(width=120)
    console.print(table)
    with tempfile.TemporaryDirectory() as folder:
        put, done = queue(Path(folder))
    console.print(
        f"One notification: {put:.0f} µs until it is safe on disk, {done:.0f} µs to note that it is delivered."
    )


if __name__ == "__main__":
    main()
