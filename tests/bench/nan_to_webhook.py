"""How long from the call of `log()` with a NaN to the webhook in a real HTTP receiver, at 100 steps a second."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rankscope.agent.demo.stage import agent
from rankscope.agent.demo.webhooks import Arrival, Webhooks

ROUNDS = 20


def main() -> None:
    from rankscope import sdk

    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Webhooks() as webhooks:
        config: dict[str, object] = {"notifiers": {"webhook": [{"url": webhooks.url}]}}
        with agent(Path(folder, "runs"), config, port=0) as running:
            os.environ["RANKSCOPE_SPOOL"] = str(Path(folder, "spool"))
            for round_ in range(ROUNDS):
                sdk.init(project="bench", name=f"nan-{round_}", id=f"nan-{round_}", agent=f"unix:{running.socket}")
                last = 50 + random.randrange(100)
                for step in range(last):
                    sdk.log(loss=2.0 - step / 200, step=step)
                    time.sleep(0.01)
                logged = time.time()
                sdk.log(loss=float("nan"), step=last)
                arrival = _wait(webhooks, f"nan-{round_}-")
                seconds.append(arrival.time - logged)
                sdk.finish()
    table = Table(title=f"log(NaN) → webhook received, {ROUNDS} rounds")
    for column in ("median", "fastest", "slowest"):
        table.add_column(column, justify="right")
    table.add_row(*(f"{x * 1e3:.0f} ms" for x in (statistics.median(seconds), min(seconds), max(seconds))))
    Console().print(table)


def _wait(webhooks: Webhooks, run: str, patience: float = 10.0) -> Arrival:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for arrival in webhooks.arrivals:
            labels = arrival.body.get("commonLabels")
            if isinstance(labels, dict) and labels["alertname"] == "LossNaN" and str(labels["run"]).startswith(run):
                return arrival
        time.sleep(0.001)
    raise TimeoutError(f"no webhook about {run} within {patience:g} s")


if __name__ == "__main__":
    main()
