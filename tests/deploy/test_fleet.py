"""Three nodes, one run: what no agent can see alone fires in Prometheus and reaches a receiver through Alertmanager."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from rankscope.agent.demo import stage
from tests.grafana import stack

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

# A rank that works for so many seconds on a step, with an agent that has another hostname in its metrics.
RANK = """
import sys, time
from rankscope import sdk
sdk.init(project="fleet", name="wide")
for step in range(100000):
    with sdk.phase("forward"):
        time.sleep(float(sys.argv[1]))
    with sdk.phase("backward"):
        time.sleep(0.01)
    sdk.log(loss=1.0 / (step + 1))
"""


class Receiver:
    """A real HTTP server that keeps what Alertmanager sends."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.alerts += payload["alerts"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, patience: float, **labels: str) -> dict[str, Any]:
        """Wait for an alert with this status and these labels, and return it."""
        status = labels.pop("status")
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            for alert in list(self.alerts):
                if alert["status"] == status and labels.items() <= alert["labels"].items():
                    return alert
            time.sleep(0.1)
        raise AssertionError(f"no {status} {labels} in {[(a['status'], a['labels']) for a in self.alerts]}")


@contextlib.contextmanager
def alertmanager(program: str, folder: Path, receiver: str) -> Generator[str, None, None]:
    """Run Alertmanager with the shipped routes and inhibitions, and the receiver in the empty one's place."""
    config = yaml.safe_load((ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text())
    config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    [default] = [entry for entry in config["receivers"] if entry["name"] == config["route"]["receiver"]]
    default["webhook_configs"] = [{"url": receiver, "send_resolved": True}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{stage.free_port()}"
    command = [program, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alertmanager"]
    command += [f"--web.listen-address={address}", "--cluster.listen-address="]
    with stage.server("Alertmanager", command, f"http://{address}", folder / "alertmanager.log"):
        yield address


def quick_rules(folder: Path) -> Path:
    """Return the shipped rules with seconds in place of minutes: `for` and windows, and nothing else."""
    folder.mkdir()
    for path in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yaml"):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = "2s"
                rule["expr"] = rule["expr"].replace("[5m]", "[10s]")
        (folder / path.name).write_text(yaml.safe_dump(rules))
    return folder


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def test_a_node_that_holds_up_the_others_and_then_is_gone(
    require: Callable[..., str], tmp_path: Path, receiver: Receiver
) -> None:
    programs = (require("prometheus"), require("prometheus-alertmanager"))
    (tmp_path / "rank.py").write_text(RANK)
    with contextlib.ExitStack() as cleanup:
        address = cleanup.enter_context(alertmanager(programs[1], tmp_path, f"{receiver.url}/"))
        server = cleanup.enter_context(
            stack.prometheus(programs[0], tmp_path, alertmanager=address, rules=quick_rules(tmp_path / "rules"))
        )
        agents: list[stage.AgentProcess] = []
        ranks: list[subprocess.Popen[bytes]] = []
        for number, seconds in enumerate((0.05, 0.05, 0.15)):
            config: dict[str, object] = {
                "exporters": {"prometheus": {"hostname": f"node{number}"}},
                "samplers": {"gpu": {"source": "simulated"}},
            }
            agent = cleanup.enter_context(stage.agent(tmp_path / f"runs{number}", config, port=0))
            agents.append(agent)
            environment = {
                "RANKSCOPE_AGENT": f"unix:{agent.socket}",
                "RANKSCOPE_SPOOL": str(tmp_path / f"spool{number}"),
                "RANKSCOPE_RUN_ID": "one-job",
                "RANK": str(number),
                "LOCAL_RANK": "0",
                "WORLD_SIZE": "3",
                "GROUP_RANK": str(number),
            }
            ranks.append(_rank(tmp_path / "rank.py", seconds, environment))
            cleanup.callback(stage.end, ranks[-1], 5.0)
        server.scrape([agent.url for agent in agents])

        straggler = receiver.wait(90, status="firing", alertname="RankscopeStragglerNode")
        assert straggler["labels"]["hostname"] == "node2"
        assert receiver.wait(60, status="firing", alertname="RankscopeRanksOutOfStep")["labels"]["run"].startswith(
            "wide-"
        )

        ranks[2].kill()
        agents[2].process.kill()
        gone = receiver.wait(60, status="firing", alertname="RankscopeNodeGone")
        assert (gone["labels"]["hostname"], gone["labels"]["severity"]) == ("node2", "critical")
        assert "node2" in gone["annotations"]["summary"]

        # The run goes on without the node: what is gone for good is over once nobody had it for the rule's 15 minutes;
        # here the other ranks end, too, and with them the reason to care.
        for rank in ranks[:2]:
            stage.end(rank, 5.0)
        receiver.wait(90, status="resolved", alertname="RankscopeNodeGone")


def _rank(script: Path, seconds: float, environment: dict[str, str]) -> subprocess.Popen[bytes]:

    return subprocess.Popen([sys.executable, str(script), str(seconds)], env={**os.environ, **environment})
