"""Every query of every panel brings something back from a healthy training, on a real Prometheus."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from rankscope.agent.demo import stage

from .dashboards import BOARDS, FOLDER, Target, fill, panels, targets
from .stack import Prometheus, prometheus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SERIES = 100  # more lines than that are unreadable

# What a healthy training on simulated GPUs has nothing to show for, and why; the panel says so in words.
EMPTY = {
    "rankscope-fleet": {"Alerts that fire": "nothing fires", "Alerts fired": "nothing fired"},
    "rankscope-run": {
        "Loss scale": "full precision",
        "Update ratio": "no watch()",
        "Other values": "logs nothing else",
        "Samples and tokens a second": "not logged",
        "Model FLOPS used": "not logged",
        "Memory of the framework": "trains on the CPU",
        "Alerts": "nothing fires",
        "Time since the last checkpoint": "saves none",
        "How ranks ended": "still runs",
    },
    "rankscope-ranks": {"Held for a straggler": "rule off", "Everything else": "few other phases"},
    "rankscope-node": {
        "Throttling": "cool",
        "Xid errors": "none",
        "Memory of processes": "ranks use no GPU",
        "InfiniBand": "no such port",
        "Pressure": "kernels without PSI",
        "Disk": "machines without a disk of their own",
        "Disk busy": "machines without a disk of their own",
        "Context switches": "no node_exporter",
        "Tensor pipe by rank": "no dcgm-exporter",
    },
    "rankscope-alerts": {
        "Alerts that fire": "nothing fires",
        "When alerts fired": "nothing fired",
        "Fired in this time": "nothing fired",
        "Rules that cannot tell": "every rule can",
        "Notifications": "no notifier",
        "Failed collections": "none failed",
        "Clock set": "none was set",
        "Notifications that wait": "no notifier",
        "Points lost": "none lost",
    },
}


@dataclass
class Training:
    """A training that goes on, and the Prometheus that sees it."""

    prometheus: Prometheus
    hostname: str
    run: str
    since: float

    def ask(self, target: Target, variables: dict[str, str]) -> list[dict[str, Any]]:
        now = time.time()
        seconds = int(now - self.since) + 1
        expression = fill(target.expr, variables, seconds)
        if target.instant:
            return self.prometheus.query(expression, now)
        return self.prometheus.query_range(expression, self.since, now, 2)


def two_cards() -> str:
    """Return a simulated node whose two cards tell everything that an H100 tells, NVLink and PCIe among it."""
    text = (FOLDER.parents[1] / "tests" / "nvml" / "scenarios" / "h100.scenario").read_text()
    head, card, *_ = re.split(r"^card$", text, flags=re.MULTILINE)
    return "card".join([head, card, card.replace("GPU-7a1f3c52", "GPU-7a1f3c53")])


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., str]) -> Iterator[Training]:
    program = require("prometheus", why="apt-get install prometheus")
    folder = tmp_path_factory.mktemp("dashboards")
    (folder / "cards").write_text(two_cards())
    config: dict[str, object] = {"samplers": {"gpu": {"source": "simulated", "scenario": str(folder / "cards")}}}
    with prometheus(program, folder) as server, stage.agent(folder / "runs", config, port=0) as agent:
        server.scrape([agent.url])
        job = stage.torchrun(agent, 2, ["--steps", "20000", "--project", "demo", "--name", "boards"], folder / "log")
        try:
            server.wait("count(rankscope_train_val_loss)")
            since = time.time()
            server.wait("min(rankscope_train_step) > 60")
            server.wait("count_over_time(rankscope:run_steps:rate5m[1m]) > 10")
            server.wait("count(rankscope_rank_cpu_seconds_total)")
            server.wait("min(rate(rankscope_rank_cpu_seconds_total[15s]))")
            [found] = server.query("rankscope_run_info")
            yield Training(server, found["metric"]["hostname"], found["metric"]["run"], since)
        finally:
            stage.end(job, 5.0)


ALL = {"job": ".+", "project": ".+", "run": ".+", "hostname": ".+", "rank": ".+", "datasource": "x"}


def expected_empty(target: Target) -> bool:
    return target.panel in EMPTY[target.board]


@pytest.mark.parametrize("board", list(BOARDS))
def test_every_query_of_every_panel_returns_data(
    training: Training, board: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all variables on `All`."""
    lines: list[str] = []
    faults: list[str] = []
    for target in (target for target in targets() if target.board == board):
        found = training.ask(target, ALL)
        lines.append(f"| {board.removeprefix('rankscope-')} | {target.panel} | {len(found)} | `{target.expr}` |")
        if not found and not (expected_empty(target) and target.empty):
            faults.append(f"{target}: nothing came back: {target.expr}")
        if len(found) > SERIES:
            faults.append(f"{target}: {len(found)} series are too many to read")
        faults += [
            f"{target}: no label {label} for the legend {target.legend}: {found[0]['metric']}"
            for label in re.findall(r"\{\{(\w+)\}\}", target.legend)
            if any(label not in series["metric"] for series in found)
        ]
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("board", list(BOARDS))
def test_the_same_is_so_for_one_chosen_run_node_and_rank(training: Training, board: str) -> None:
    one = {
        "job": "rankscope",
        "project": "demo",
        "run": training.run,
        "hostname": training.hostname,
        "rank": "1",
        "datasource": "x",
    }
    faults = [
        f"{target}: {target.expr}"
        for target in targets()
        if target.board == board and not expected_empty(target) and not training.ask(target, one)
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("board", list(BOARDS))
def test_every_variable_has_values(training: Training, board: str) -> None:
    for variable in BOARDS[board]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        parts = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert parts is not None, variable["query"]
        values = training.prometheus.label_values(fill(parts[1], ALL), parts[2])
        assert values, variable["name"]


@pytest.mark.parametrize("board", list(BOARDS))
def test_annotations_can_be_asked(training: Training, board: str) -> None:
    for note in BOARDS[board]["annotations"].get("list", []):
        if "expr" in note:
            training.prometheus.query_range(fill(note["expr"], ALL), training.since, time.time(), 30)


def test_no_panel_that_is_listed_as_empty_is_gone() -> None:
    for uid, titles in EMPTY.items():
        assert set(titles) <= {panel["title"] for panel in panels(BOARDS[uid])}, uid


def test_the_run_dashboard_shows_the_newest_loss(training: Training) -> None:
    [target] = [t for t in targets() if (t.board, t.panel, t.kind) == ("rankscope-run", "Loss", "stat")]
    [series] = training.ask(target, ALL)
    assert 0 < float(series["value"][1]) < math.log(1000)
