"""One contestant in a process of its own: `python contest.py NAME` prints its figures as JSON.

A contestant is one function that starts its tool and returns what logs five scalars. Runs under any Python that has
the tool; nothing but the standard library is used besides it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

Log = Callable[[int], object]
CALL_SECONDS, STEPS, BLOCK = 1.5, 800, 20


def floor() -> Log:
    """A Python function that takes five numbers by whatever names and packs them into a memory map."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (mapped as long as the process lives)
    file.truncate(1 << 20)
    buffer, layout = mmap.mmap(file.fileno(), 1 << 20), struct.Struct("<q5d")

    def put(*, step: int, **scalars: float) -> None:
        layout.pack_into(buffer, (step & 4095) * 64, step, *scalars.values())

    return lambda step: put(step=step, loss=1.0, lr=0.1, grad_norm=2.0, tokens=3.0, seconds=4.0)


def nothing() -> Log:
    """The loop itself."""
    return lambda step: None


def rankscope() -> Log:
    from rankscope import sdk

    sdk.init(project="bench", name="hotpath")
    return lambda step: sdk.log(step=step, loss=1.0, lr=0.1, grad_norm=2.0, tokens=3.0, seconds=4.0)


rankscope_no_agent = rankscope_stopped_agent = rankscope_slow_agent = rankscope_reset_agent = rankscope


def rankscope_appended() -> Log:
    """The journal written with a system call for each record, as on a network file system."""
    from rankscope.sdk import _spool

    _spool.mappable = lambda path: False
    return rankscope()


def rankscope_thread() -> Log:
    """The sender as a thread of the training process instead of a process beside it."""
    import asyncio
    import threading

    from rankscope.sdk import _launch, _runtime

    class Helper:
        gone, pid = False, 0

        def __init__(self, folder: Any, agent: str, talks: bool) -> None:
            from rankscope.sdk._delivery import read_hello
            from rankscope.sdk._live import Glance
            from rankscope.sdk._reader import Reader
            from rankscope.sdk._stream import Delivery

            hello, _ = read_hello(folder)
            wall = time.time_ns() - time.monotonic_ns()
            delivery = Delivery(
                agent, "", hello, Reader(folder), Glance(folder), lambda: False, wall_offset=lambda: wall
            )
            threading.Thread(target=lambda: asyncio.run(delivery.run()), daemon=True).start()

    _runtime.Helper = _launch.Helper = Helper  # type: ignore[assignment, attr-defined, misc]
    return rankscope()


def rankscope_disabled() -> Log:
    from rankscope import sdk

    sdk.init(mode="disabled")
    return lambda step: sdk.log(step=step, loss=1.0, lr=0.1, grad_norm=2.0, tokens=3.0, seconds=4.0)


def rankscope_phase() -> Log:
    """One phase, in and out."""
    from rankscope import sdk

    sdk.init(project="bench", name="hotpath")

    def phase(step: int) -> None:
        with sdk.phase("forward"):
            pass

    return phase


def rankscope_phases() -> Log:
    """Five scalars and three phases a step, as in the README."""
    from rankscope import sdk

    sdk.init(project="bench", name="hotpath")

    def step_(step: int) -> None:
        with sdk.phase("forward"):
            pass
        with sdk.phase("backward"):
            pass
        with sdk.phase("optimizer"):
            pass
        sdk.log(step=step, loss=1.0, lr=0.1, grad_norm=2.0, tokens=3.0, seconds=4.0)

    return step_


VALUES = {"loss": 1.0, "lr": 0.1, "grad_norm": 2.0, "tokens": 3.0, "seconds": 4.0}


def tensorboard() -> Log:
    from torch.utils.tensorboard import SummaryWriter  # type: ignore[import-untyped, unused-ignore]

    writer: Any = SummaryWriter(tempfile.mkdtemp())

    def log(step: int) -> None:
        for name, value in VALUES.items():
            writer.add_scalar(name, value, step)

    return log


def wandb() -> Log:
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=tempfile.mkdtemp())
    import wandb as tool  # type: ignore[import-not-found, unused-ignore]

    run: Any = tool.init(project="bench")
    return lambda step: run.log(dict(VALUES), step=step)


def trackio() -> Log:
    os.environ["TRACKIO_DIR"] = tempfile.mkdtemp()
    import trackio as tool  # type: ignore[import-not-found, unused-ignore]

    tool.init(project="bench")
    return lambda step: tool.log(dict(VALUES), step=step)


def swanlab() -> Log:
    import swanlab as tool  # type: ignore[import-not-found, unused-ignore]

    tool.init(project="bench", mode="local", logdir=tempfile.mkdtemp())
    return lambda step: tool.log(dict(VALUES), step=step)


def aim() -> Log:
    from aim import Run  # type: ignore[import-not-found, unused-ignore]

    run: Any = Run(repo=tempfile.mkdtemp(), system_tracking_interval=None)

    def log(step: int) -> None:
        for name, value in VALUES.items():
            run.track(value, name=name, step=step)

    return log


def mlflow() -> Log:
    import mlflow as tool  # type: ignore[import-not-found, unused-ignore]

    tool.set_tracking_uri(f"sqlite:///{tempfile.mkdtemp()}/mlflow.db")
    tool.start_run()
    return lambda step: tool.log_metrics(VALUES, step=step)


def prometheus() -> Log:
    from prometheus_client import Gauge

    gauges = {name: Gauge(name, name) for name in VALUES}

    def log(step: int) -> None:
        for name, value in VALUES.items():
            gauges[name].set(value)

    return log


def tight(log: Log) -> tuple[float, float]:
    """Return median and 99th percentile of a call, µs, without the clock's own cost."""
    clock, took = time.perf_counter_ns, []
    end, step = time.perf_counter() + CALL_SECONDS, 0
    while time.perf_counter() < end and step < 100_000:
        for _ in range(100):
            step += 1
            begin = clock()
            log(step)
            took.append(clock() - begin)
    took.sort()
    empty = sorted(-(clock() - clock()) for _ in range(2001))[1000]
    return (took[len(took) // 2] - empty) / 1e3, (took[int(len(took) * 0.99)] - empty) / 1e3


def steps(log: Log) -> tuple[float, float, float]:
    """Return what a call after every 2 ms of work costs, µs a step; blocks with and without calls take turns.

    Wall time added to a step (drowns in noise on a busy machine); the call as the training thread sees it, with cold
    caches, its median; the CPU time of all other threads and processes of the tool.
    """
    memory, figures, clock = bytearray(2 << 20), list(range(400)), time.perf_counter_ns

    def work(rounds: int) -> None:
        bytes(memory)
        for _ in range(rounds):
            sum(figures)

    begin = time.perf_counter()
    for _ in range(20):
        work(500)
    rounds = int(500 * 0.002 / ((time.perf_counter() - begin) / 20))
    walls: tuple[list[float], list[float]] = ([], [])
    calls: list[int] = []
    beside = background()
    for block in range(2 * STEPS // BLOCK):
        on = block % 2
        begin = time.perf_counter()
        for step in range(BLOCK):
            work(rounds)
            if on:
                called = clock()
                log(1_000_000 + block * BLOCK + step)
                calls.append(clock() - called)
        walls[on].append((time.perf_counter() - begin) / BLOCK)
    beside = background() - beside
    pairs = sorted(on - off for off, on in zip(*walls, strict=True))
    middle = pairs[len(pairs) // 4 : -len(pairs) // 4]  # what else the machine does is in the rest
    calls.sort()
    return 1e6 * sum(middle) / len(middle), calls[len(calls) // 2] / 1e3, 1e6 * beside / STEPS


def background() -> float:
    """Return the CPU seconds of all but this thread: the tool's other threads, and the processes that it started."""
    own = time.process_time() - time.thread_time()
    for pid in descendants():
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                    own += int(file.read().split()[0]) / 1e9
    return own


def memory() -> float:
    """Return the most memory that the tool's processes held at once, each on its own, MB."""
    total = 0
    for pid in [os.getpid(), *descendants()]:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return total / 1024


def descendants() -> list[int]:
    found, todo = [], [os.getpid()]
    while todo:
        pid = todo.pop()
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    children = [int(child) for child in file.read().split()]
                found += children
                todo += children
        except OSError:
            continue
    return found


def main() -> None:
    log = globals()[sys.argv[1]]()
    for step in range(50):
        log(step)
    time.sleep(25.0 if "slow" in sys.argv[1] else 2.0)  # whatever starts beside it has started
    added, cold, beside = steps(log)
    median, p99 = tight(log)
    figures = {"median": median, "p99": p99, "cold": cold, "beside": beside, "added": added, "memory": memory()}
    print("\n" + json.dumps(figures), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
