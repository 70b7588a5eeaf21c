"""TensorBoard itself, opened in a browser on a run's folder: every page shows what was logged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rankscope.agent.demo.stage import agent

from .browser import browser

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent / "scripts" / "everything.py"
PICTURES = Path(__file__).parents[2] / ".artifacts" / "tensorboard"
PAGES = {  # what a page's text holds once it has loaded
    "timeseries": "train_loss",
    "scalars": "train_loss",
    "images": "samples/noise",
    "histograms": "gradients/0.weight",
    "distributions": "gradients/0.weight",
    "graphs": "Op graph",
    "text": "predictions-40.csv",
    "hparams": "model/dropout",
}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard that shows a run which a real agent has written."""
    folder = tmp_path_factory.mktemp("pages")
    runs = folder / "runs"
    with agent(runs, {}, port=0) as running:
        environment = os.environ | {
            "RANKSCOPE_AGENT": f"unix:{running.socket}",
            "RANKSCOPE_SPOOL": str(folder / "spool"),
        }
        subprocess.run([sys.executable, str(SCRIPT)], env=environment, check=True, timeout=60)
        deadline = time.monotonic() + 20
        while '"state": "finished"' not in "".join(path.read_text() for path in runs.glob("*/*/run.json")):
            assert time.monotonic() < deadline, "the run's end did not arrive"
            time.sleep(0.05)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = ""
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                url = found[0]
                break
        assert url, "TensorBoard did not say where it listens"
        try:
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=60)


def data(board: str, path: str) -> Any:
    deadline = time.monotonic() + 20
    while True:
        found: Any = httpx.get(f"{board}/data/{path}").json()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def test_every_plugin_has_what_was_logged(board: str) -> None:
    (run,) = data(board, "runs")
    assert run.startswith("pages/everything-")
    assert run.endswith("/rank_0000")
    scalars = data(board, "plugin/scalars/tags")[run]
    assert {"train_loss", "phase/forward", "update_ratio", "lr", "dead_fraction"} <= set(scalars)
    points = data(board, f"plugin/scalars/scalars?run={run}&tag=train_loss")
    assert [step for _, step, _ in points] == list(range(60))
    assert set(data(board, "plugin/images/tags")[run]) == {"samples/noise"}
    assert {"inputs", "weights/0.weight", "gradients/4.bias"} <= set(data(board, "plugin/histograms/tags")[run])
    assert set(data(board, "plugin/text/tags")[run]) == {"config", "samples/text", "predictions", "script"}
    assert data(board, "plugin/graphs/info")[run]["run_graph"]
    image = data(board, f"plugin/images/images?run={run}&tag=samples/noise&sample=0")[0]
    png = httpx.get(f"{board}/data/plugin/images/individualImage?{image['query']}")
    assert png.headers["content-type"] == "image/png"


def test_hparams_hold_the_configuration_the_metrics_and_how_it_ended(board: str) -> None:
    request = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [
            *({"hparam": name} for name in ("lr", "model/layers", "model/dropout", "amp")),
            {"metric": {"group": "", "tag": "train_loss"}, "includeInResult": True},
        ],
        "startIndex": 0,
        "sliceSize": 10,
    }
    data(board, "runs")
    answer = httpx.post(f"{board}/data/plugin/hparams/session_groups", json=request).json()
    (group,) = answer["sessionGroups"]
    assert group["hparams"] == {"lr": 0.01, "model/layers": 3.0, "model/dropout": 0.1, "amp": False}
    assert [
        (value["name"]["tag"], value["trainingStep"])
        for value in group["metricValues"]
        if value["name"]["tag"] == "train_loss"
    ] == [("train_loss", 59)]
    assert group["sessions"][0]["status"] == "STATUS_SUCCESS"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_in_a_browser(board: str, page: str, require: Callable[..., str], tmp_path: Path) -> None:
    chromium = require("chromium", "chromium-browser", "google-chrome", why="apt-get install chromium")
    data(board, "runs")
    with browser(chromium, tmp_path) as chrome:
        session = chrome.open(f"{board}/#{page}")
        text = chrome.wait_for(session, PAGES[page])
        chrome.picture(session, PICTURES / f"{page}.png")
    assert PAGES[page] in text, f"see {PICTURES / page}.png"
