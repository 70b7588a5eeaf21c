"""What the demo shows while it runs, and what it says at the end."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rankscope.agent.demo.page import Page
from rankscope.agent.demo.webhooks import Arrival

COLOURS = {"critical": "bold red", "warning": "yellow", "info": "cyan", "resolved": "green"}


def number(value: float | None, digits: int = 4) -> str:
    """Return a number as a table shows it; what is missing is a dash."""
    if value is None:
        return "–"
    return f"{value:.{digits}g}" if math.isfinite(value) else f"[bold red]{value}[/]"


def live(page: Page, steps: int, arrivals: Sequence[Arrival]) -> RenderableType:
    """Return the running view: progress, one line a rank, the newest alerts."""
    done = max((value + 1 for _, value in page.get("train_step")), default=0.0)
    progress = Table.grid(padding=(0, 1))
    progress.add_row("training", ProgressBar(total=steps, completed=min(done, steps), width=50), f"{done:.0f}/{steps}")
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")  # fits into 80 columns
    gpu_column = "simulated GPU" if page.get("gpu_info", simulated="true") else "GPU"
    for column in ("rank", "step", "loss", "val loss", "learning rate", "gradient norm", gpu_column, "busy"):
        table.add_column(column, justify="right")
    for labels, up in sorted(page.get("rank_up"), key=lambda item: int(item[0]["rank"])):
        rank = labels["rank"]
        step = page.value("train_step", rank=rank)
        info = page.get("rank_info", rank=rank)
        gpu = info[0][0].get("gpu", "") if info else ""
        busy = page.value("gpu_utilization_ratio", gpu=gpu) if gpu else None
        table.add_row(
            rank if up else f"[dim]{rank}[/]",
            number(step, 6),
            number(page.value("train_loss", rank=rank)),
            number(page.value("train_val_loss", rank=rank)),
            number(page.value("train_learning_rate", rank=rank), 2),
            number(page.value("train_grad_norm", rank=rank), 3),
            gpu or "–",
            "–" if busy is None else f"{busy:.0%}",
        )
    lines = [Text.from_markup(headline(arrival)) for arrival in arrivals[-5:]]
    return Group(progress, table, *lines)


def headline(arrival: Arrival) -> str:
    """Return one line for a webhook: what, where, in words."""
    body = arrival.body
    status = str(body["status"])
    labels = cast("Mapping[str, str]", body["commonLabels"])
    alerts = cast("Sequence[Mapping[str, Mapping[str, str]]]", body["alerts"])
    summary = alerts[0]["annotations"].get("summary", "") if alerts else ""
    colour = COLOURS["resolved" if status == "resolved" else labels.get("severity", "info")]
    return f"[{colour}]{status:>8}  {escape(labels.get('alertname', '?'))}[/]  {escape(summary)}"


def explained(arrival: Arrival) -> RenderableType:
    """Return a webhook with the causes and fixes it carries; what goes on in another line stays below its text."""
    lines: list[RenderableType] = [_hanging(Text.from_markup(headline(arrival)), 0, 10)]
    for alert in cast("Sequence[Mapping[str, Mapping[str, str]]]", arrival.body["alerts"]):
        if arrival.body["status"] == "firing":
            for key in ("causes", "fixes"):
                words = alert["annotations"].get(key, "").strip().splitlines()[:4]
                if words:
                    lines.append(_hanging(Text(f"{key}:", "dim"), 10, 0))
                lines += [_hanging(Text(line), 12, 3 if len(words) > 1 else 0) for line in words]
    return Group(*lines)


def _hanging(text: Text, left: int, further: int) -> RenderableType:
    """Return a text whose first line begins in column `left`, and the others `further` to the right."""
    if not further:
        return Padding(text, (0, 0, 0, left), expand=False)
    row = Table.grid()
    row.add_column(width=further)
    row.add_column(overflow="fold")
    row.add_row(text[:further], text[further:])
    return Padding(row, (0, 0, 0, left), expand=False)


def ending(console: Console, page: Page, runs: Path, url: str, arrivals: Sequence[Arrival], *, serving: bool) -> None:
    """Say what was logged, what fired, what was received, and where to look."""
    points = page.get("ingest_points_total")
    steps = {labels["rank"]: value + 1 for labels, value in page.get("train_step")}
    console.rule("[bold]what was logged[/]", align="left")
    for labels, count in points:
        rank = labels["rank"]
        console.print(f"rank {rank} of {escape(labels['run'])}: {steps.get(rank, 0):.0f} steps, {count:,.0f} points")
    console.rule("[bold]what was found[/]", align="left")
    for arrival in arrivals:
        console.print(explained(arrival))
    if not arrivals:
        console.print("nothing wrong, and so no webhook was sent", style="green")
    firing = [arrival for arrival in arrivals if arrival.body["status"] == "firing"]
    if firing:
        console.rule(f"[bold]the first of {len(arrivals)} webhook bodies that the receiver got[/]", align="left")
        console.print_json(json.dumps(firing[0].body), indent=2)
    console.rule("[bold]where to look[/]", align="left")
    places = {"TensorBoard": f"{_typed('tensorboard')} --logdir {runs}"}
    here = {labels["run"] for labels, _ in points}
    places["the run's folder"] = str(next((path for path in runs.glob("*/*") if path.name in here), runs))
    if serving:
        places |= {"page": f"{url}/", "Prometheus scrapes": f"{url}/metrics"}
    else:
        places["page and metrics"] = f"{_typed('rankscope')} demo --serve keeps the agent up to look at them"
    for what, where in places.items():
        console.print(f"{what:18}  {where}", highlight=False, markup=False, soft_wrap=True)


def _typed(program: str) -> str:
    """Return how a program is called from here: by its path where the shell would not find this environment's."""
    here = Path(sys.executable).parent / program
    if shutil.which(program) or not here.exists():
        return program
    return os.path.relpath(here) if here.is_relative_to(Path.cwd()) else str(here)
