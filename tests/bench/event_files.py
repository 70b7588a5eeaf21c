"""How many scalars a second go into event files on one core, and what making them safe costs."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter

from rankscope.agent.exporters.tensorboard import Tensorboard
from rankscope.agent.model import Batch, Block, Column, RankInfo, RankKey

ROUNDS = 5
NAMES = ("loss", "lr", "grad_norm", "throughput", "accuracy")


def ours(rows: int, width: int) -> Callable[[Path, int], None]:
    """Return a writer that takes blocks of `rows` steps by `width` scalars, and commits after every 100 blocks."""

    def write(folder: Path, scalars: int) -> None:
        record = Tensorboard(dir=str(folder))
        info = RankInfo(RankKey("bench", "bench-1", 0), 1, "bench")
        record.begin(info)
        columns = tuple(Column(name) for name in NAMES[:width])
        value = np.random.default_rng(0).normal(size=(rows, width))
        steps, time_ = np.arange(rows), time.time() + np.arange(rows, dtype=np.float64) * 1e-3
        done = 0
        for number in range(scalars // (rows * width)):
            block = Block(columns, steps + done, time_, value)
            record.write(info, Batch(done + 1, done + rows, (block,)))
            done += rows
            if number % 100 == 99:
                record.commit()
        record.close()

    return write


def torch_writer(folder: Path, scalars: int) -> None:
    with SummaryWriter(str(folder)) as writer:
        for step in range(scalars // len(NAMES)):
            for name in NAMES:
                writer.add_scalar(name, 0.5, step)


def tensorboard_writer(folder: Path, scalars: int) -> None:
    writer = EventFileWriter(str(folder))
    for step in range(scalars // len(NAMES)):
        for name in NAMES:
            event = Event(step=step, wall_time=0.0)
            event.summary.value.add(tag=name, simple_value=0.5)
            writer.add_event(event)
    writer.close()


def commit_cost(ranks: int) -> list[float]:
    """Return milliseconds of commits in which each rank has ten new rows of five."""
    with tempfile.TemporaryDirectory() as folder:
        record = Tensorboard(dir=folder)
        infos = [RankInfo(RankKey("bench", "bench-1", rank), rank, "bench") for rank in range(ranks)]
        columns = tuple(Column(name) for name in NAMES)
        for info in infos:
            record.begin(info)
        taken: list[float] = []
        for number in range(30):
            for info in infos:
                block = Block(columns, np.arange(10), np.arange(10.0), np.ones((10, 5)))
                record.write(info, Batch(number * 10 + 1, number * 10 + 10, (block,)))
            started = time.perf_counter()
            record.commit()
            taken.append((time.perf_counter() - started) * 1e3)
        record.close()
        return taken


def main() -> None:
    contestants: dict[str, tuple[Callable[[Path, int], None], int]] = {
        "torch SummaryWriter, one scalar a call": (torch_writer, 20_000),
        "tensorboard EventFileWriter, one scalar an event": (tensorboard_writer, 20_000),
        "ours, 1 scalar a row, 50 rows a batch": (ours(50, 1), 200_000),
        "ours, 5 scalars a row, 1 row a batch": (ours(1, 5), 50_000),
        "ours, 5 scalars a row, 10 rows a batch": (ours(10, 5), 500_000),
        "ours, 5 scalars a row, 500 rows a batch": (ours(500, 5), 2_000_000),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, (write, scalars) in contestants.items():
            with tempfile.TemporaryDirectory() as folder:
                started, cpu = time.perf_counter(), time.process_time()
                write(Path(folder), scalars)
                spent = max(time.process_time() - cpu, 1e-9), time.perf_counter() - started
                rates[name].append(scalars / spent[0])
    table = Table(title=f"scalars into event files, a second of one core, median of {ROUNDS} rounds, all made safe")
    table.add_column("writer")
    table.add_column("scalars/s", justify="right")
    for name, taken in rates.items():
        table.add_row(name, f"{statistics.median(taken):,.0f}")
    Console().print(table)
    table = Table(title="one commit: 10 rows a rank written and made safe, wall time")
    for column in ("ranks", "median, ms", "worst, ms"):
        table.add_column(column, justify="right")
    for ranks in (1, 8):
        taken = commit_cost(ranks)
        table.add_row(str(ranks), f"{statistics.median(taken):.1f}", f"{max(taken):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
