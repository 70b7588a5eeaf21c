"""Debian's Alertmanager takes what we post, inhibits what the shipped file says, and its webhooks look like ours."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rankscope.agent.alerts.inhibitions import INHIBITIONS
from rankscope.agent.alerts.render import timestamp
from rankscope.agent.demo import stage
from rankscope.agent.fakes import Inbox, a_notification, inbox
from rankscope.agent.notifiers.alertmanager import Alertmanager
from rankscope.agent.notifiers.webhook import Webhook

CONFIG = Path(__file__).parents[3] / "deploy" / "alertmanager" / "alertmanager.yml"


@dataclass
class Server:
    """A running Alertmanager, and the inbox that its webhooks go to."""

    url: str
    inbox: Inbox

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v2/{path}", timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, alerts: list[dict[str, object]]) -> int:
        request = urllib.request.Request(
            f"{self.url}/api/v2/alerts", json.dumps(alerts).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)

    def until(self, condition: Callable[[list[Any]], bool]) -> list[Any]:
        deadline = time.monotonic() + 10
        while not condition(alerts := self.get("alerts")):
            assert time.monotonic() < deadline, f"it did not come about: {alerts}"
            time.sleep(0.05)
        return list(alerts)


@pytest.fixture(scope="module")
def server(require: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = require("prometheus-alertmanager", "alertmanager", why="Debian: apt install prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("alertmanager")
    port = stage.free_port()
    with inbox() as box:
        config = yaml.safe_load(CONFIG.read_text())
        config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        config["receivers"] = [{"name": "default", "webhook_configs": [{"url": box.url}]}]
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
        command = [program, f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
        url = f"http://127.0.0.1:{port}"
        with stage.server("Alertmanager", command, url, folder / "log"):
            yield Server(url, box)


def now_like(notification: Any, name: str) -> Any:
    """Give a notification of the past the present's times, and a name of its own."""
    for alert in notification.payload["alerts"]:
        alert["labels"] = {**alert["labels"], "alertname": name}
        alert["startsAt"] = timestamp(time.time() - 5)
        if alert["status"] == "resolved":
            alert["endsAt"] = timestamp(time.time())
    return notification


@pytest.mark.e2e
async def test_it_takes_our_alerts_and_computes_our_fingerprints(server: Server) -> None:
    notifier = Alertmanager(url=server.url)
    notification = a_notification()
    for alert in notification.payload["alerts"]:  # type: ignore[attr-defined]
        alert["startsAt"] = timestamp(time.time())
    await notifier.send(notification)
    await notifier.close()
    (ours,) = notification.payload["alerts"]  # type: ignore[misc]
    (theirs,) = server.until(lambda alerts: any(a["labels"]["alertname"] == "LossNaN" for a in alerts))
    assert theirs["fingerprint"] == ours["fingerprint"]  # type: ignore[has-type]
    assert theirs["labels"] == ours["labels"]  # type: ignore[has-type]
    assert theirs["annotations"] == ours["annotations"]  # type: ignore[has-type]


@pytest.mark.e2e
async def test_its_webhook_has_the_shape_of_ours(server: Server) -> None:
    """The same alert, once through Alertmanager and once from us: firing, then resolved."""
    notifier = Alertmanager(url=server.url)
    direct = Webhook(url=server.inbox.url + "/ours")
    for resolved in (False, True):
        notification = now_like(a_notification(resolved=resolved), "ShapeTest")
        await notifier.send(notification)
        await direct.send(notification)
        status = "resolved" if resolved else "firing"
        ours, theirs = await _both(server.inbox, status)
        assert theirs.keys() <= ours.keys()
        assert ours.keys() - theirs.keys() <= {"notification_reason", "routeLabels"}, "what newer ones have"
        assert _shape(theirs) == {key: value for key, value in _shape(ours).items() if key in theirs}
        assert ours["alerts"][0].keys() == theirs["alerts"][0].keys()
        for key in ("status", "version", "truncatedAlerts", "commonLabels", "commonAnnotations"):
            if key != "commonLabels":
                assert ours[key] == theirs[key], key
        assert (ours["alerts"][0]["endsAt"] == "0001-01-01T00:00:00Z") is not resolved
        assert (theirs["alerts"][0]["endsAt"] == "0001-01-01T00:00:00Z") is not resolved
    await notifier.close()
    await direct.close()


async def _both(box: Inbox, status: str) -> tuple[dict[str, Any], dict[str, Any]]:
    deadline = time.monotonic() + 10
    while True:
        bodies: dict[bool, Any] = {}
        for request in box.arrived:
            body: Any = request.json()
            if body["status"] == status and body["alerts"][0]["labels"]["alertname"] == "ShapeTest":
                bodies[request.path == "/ours"] = body
        if len(bodies) == 2:
            return bodies[True], bodies[False]
        assert time.monotonic() < deadline, f"no {status} from both"
        await asyncio.sleep(0.05)


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: type(inner).__name__ for key, inner in value.items()}
    return type(value).__name__


@pytest.mark.e2e
async def test_the_agents_alert_silences_its_twin_of_the_rule_files(server: Server) -> None:
    now = time.time()
    times: dict[str, object] = {"startsAt": timestamp(now), "endsAt": timestamp(now + 100)}
    notifier = Alertmanager(url=server.url)
    await notifier.send(now_like(a_notification("TrainingStalled"), "TrainingStalled"))
    await notifier.close()
    run = "exp-1.<@everyone>&*_x-0a1b2c3d"
    twin = {"labels": {"alertname": "RankscopeRanksOutOfStep", "run": run}, **times}
    other = {"labels": {"alertname": "RankscopeRanksOutOfStep", "run": "another"}, **times}
    after = {"labels": {"alertname": "Straggler", "source": "agent", "project": "demo", "run": run}, **times}
    assert server.post([twin, other, after]) == 200
    alerts = server.until(lambda alerts: sum(1 for a in alerts if a["status"]["inhibitedBy"]) >= 2)
    inhibited = {(a["labels"]["alertname"], a["labels"]["run"]) for a in alerts if a["status"]["inhibitedBy"]}
    assert inhibited == {("RankscopeRanksOutOfStep", run), ("Straggler", run)}


@pytest.mark.e2e
def test_the_shipped_configuration_is_right(require: Callable[..., str]) -> None:
    amtool = require("amtool", why="Debian: apt install prometheus-alertmanager")
    subprocess.run([amtool, "check-config", str(CONFIG)], check=True, capture_output=True)


def test_twins_are_alerts_that_the_rule_files_have() -> None:
    rules = yaml.safe_load((CONFIG.parents[1] / "prometheus" / "rules" / "alerts.yaml").read_text())
    exist = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    named: set[str] = set()
    for rule in yaml.safe_load(CONFIG.read_text())["inhibit_rules"]:
        for matcher in rule["target_matchers"]:
            named.update(re.findall(r"Rankscope\w+", matcher))
    assert named
    assert named <= exist


def test_the_shipped_configuration_holds_our_table_of_causes() -> None:
    rules = yaml.safe_load(CONFIG.read_text())["inhibit_rules"]
    shipped = {
        (rule["source_matchers"][0], rule["target_matchers"][0], tuple(rule["equal"]))
        for rule in rules
        if len(rule["target_matchers"]) == 2
    }
    assert shipped == {
        (f'alertname="{i.source}"', f'alertname=~"{"|".join(sorted(i.targets))}"', i.equal) for i in INHIBITIONS
    }


async def test_while_it_fires_an_alert_ends_in_four_minutes_and_else_when_it_ended() -> None:
    with inbox() as box:
        notifier = Alertmanager(url=box.url + "/prefix/")
        await notifier.send(a_notification())
        await notifier.send(a_notification(resolved=True))
        await notifier.close()
    firing, resolved = (request.json() for request in box.arrived)
    assert isinstance(firing, list)
    assert isinstance(resolved, list)
    assert timestamp(time.time() + 200) < firing[0]["endsAt"].replace("+00:00", "Z") < timestamp(time.time() + 241)
    assert resolved[0]["endsAt"] == "2001-09-09T01:47:40.000Z"
    assert firing[0].keys() == {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}
    assert box.arrived[0].path == "/prefix/api/v2/alerts"
