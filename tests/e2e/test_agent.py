"""The daemon: how it ends, and how it takes over another configuration."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from rankscope.agent.receivers.fake_rank import FakeRank

pytestmark = pytest.mark.e2e


class Daemon:
    """An agent with a configuration file that the test writes."""

    def __init__(self, folder: Path, address: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = address or f"127.0.0.1:{probe.getsockname()[1]}"
        self.url = f"http://{self.address}"
        self.socket = f"unix:{folder}/agent.sock"
        self.config = folder / "rankscope.yaml"
        self.log = folder / "log"
        self.write("rules: {LossSpike: off}")
        with self.log.open("wb") as out:
            command = [sys.executable, "-m", "rankscope.agent", "agent", "--config", str(self.config)]
            command += [
                "--listen",
                f"unix://{folder}/agent.sock",
                "--http",
                self.address,
                "--runs",
                str(folder / "runs"),
            ]
            self.process = subprocess.Popen(command, stderr=out)
        if not address:
            self.until(self.ready)

    def write(self, text: str) -> None:
        self.config.write_text(text + "\n")

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def rules(self) -> set[str]:
        """The rules that have a verdict on the page of metrics."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        states = [line for line in lines if line.startswith("rankscope_rule_state{")]
        return {line.split('rule="')[1].split('"')[0] for line in states}

    def until(self, what: Callable[[], bool], patience: float = 20.0) -> None:
        deadline = time.monotonic() + patience
        while not what():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


def test_sigterm_ends_it_and_what_was_taken_is_on_disk(daemon: Daemon, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with FakeRank(daemon.socket) as rank:
        for step in range(100):
            rank.log(step, {"loss": 1.0})
        rank.wait_safe()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(5) == 0  # it drains and ends in at most 5 s
    (events,) = (tmp_path / "runs").glob("*/*/rank_0000")
    record = EventAccumulator(str(events), size_guidance={"scalars": 0})
    record.Reload()
    assert len(record.Scalars("loss")) == 100
    assert "Traceback" not in daemon.log.read_text()
    assert not (tmp_path / "agent.sock").exists()


def test_sighup_takes_over_another_configuration_and_refuses_a_wrong_one(daemon: Daemon) -> None:
    with FakeRank(daemon.socket) as rank:
        rank.log(1, {"loss": 1.0})
        daemon.until(lambda: "LossNaN" in daemon.rules())
        assert "LossSpike" not in daemon.rules()
        daemon.write("rules: {LossSpike: {tresh: 3}}")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: "the old configuration stays" in daemon.log.read_text())
        assert "LossSpike" not in daemon.rules()
        daemon.write("rules: {}")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: "LossSpike" in daemon.rules())


def test_reload_over_http_says_why_it_refuses(daemon: Daemon) -> None:
    daemon.write("rules: {LossSpike: {tresh: 3}}")
    answer = httpx.post(f"{daemon.url}/-/reload")
    assert answer.status_code >= 400
    assert "tresh: unknown" in answer.text
    daemon.write("rules: {}")
    assert httpx.post(f"{daemon.url}/-/reload").status_code == 200


def test_health_and_readiness(daemon: Daemon) -> None:
    assert httpx.get(f"{daemon.url}/-/healthy").status_code == 200
    assert httpx.get(f"{daemon.url}/-/ready").status_code == 200


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_the_page_of_metrics_is_what_was_asked_for(daemon: Daemon, accept: str) -> None:
    page = httpx.get(f"{daemon.url}/metrics", headers={"Accept": accept})
    assert page.headers["content-type"].startswith(accept.split(";")[0])
    assert page.text.rstrip().endswith("# EOF") == accept.startswith("application/openmetrics")


def test_promtool_is_silent_about_the_page(daemon: Daemon, require: Callable[..., str]) -> None:
    promtool = require("promtool", why="apt-get install prometheus")
    with FakeRank(daemon.socket, run_id="page") as rank:
        rank.log(1, {"loss": 1.0, "my/metric": 2.0}, {"forward": 0.1})
        rank.wait_safe()
        page = httpx.get(f"{daemon.url}/metrics").content
    checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_links_lead_to_a_port_that_the_system_chose(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "127.0.0.1:0")
    try:
        daemon.until(lambda: "shows the rest" in daemon.log.read_text())
        (url,) = (word for word in daemon.log.read_text().split() if word.startswith("http://127.0.0.1:"))
        daemon.url = url
        daemon.until(daemon.ready)
        with FakeRank(daemon.socket) as rank:
            rank.log(1, {"loss": float("nan")})
            daemon.until(lambda: bool(httpx.get(f"{url}/api/v1/alerts").json()["alerts"]))
        (alert,) = httpx.get(f"{url}/api/v1/alerts").json()["alerts"]
        assert f":{url.rpartition(':')[2]}/#rule-LossNaN" in alert["annotations"]["runbook"]
    finally:
        daemon.process.terminate()
        daemon.process.wait(60)
