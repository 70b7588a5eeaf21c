"""The rules for Prometheus are valid, say what to do, and each was seen to fire and to keep silent."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rankscope.agent import telemetry
from rankscope.sdk import _live

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for path in sorted((FOLDER / "rules").glob("*.yaml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
TESTS = yaml.safe_load((FOLDER / "tests" / "alerts.yaml").read_text())["tests"]
CASES = [case for test in TESTS for case in test["alert_rule_test"]]


def test_promtool_takes_rules_and_configuration(require: Callable[..., str], tmp_path: Path) -> None:
    promtool = require("promtool", why="apt-get install prometheus")
    checked = subprocess.run(
        [promtool, "check", "config", str(FOLDER / "prometheus.yml")], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("rules found") == 2


@pytest.mark.parametrize("file", ["alerts.yaml", "joins.yaml"])
def test_the_unit_tests_of_rules_and_joins_pass(require: Callable[..., str], file: str) -> None:
    promtool = require("promtool", why="apt-get install prometheus")
    tested = subprocess.run(
        [promtool, "test", "rules", file], check=False, capture_output=True, text=True, cwd=FOLDER / "tests"
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_a_rule_was_seen_to_fire_and_to_keep_silent(name: str) -> None:
    mine = [case["exp_alerts"] for case in CASES if case["alertname"] == name]
    assert any(mine), "no unit test in which it fires"
    assert not all(mine), "no unit test in which it keeps silent"


@pytest.mark.parametrize("name", ALERTS)
def test_a_rule_says_what_is_wrong_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert name.startswith("Rankscope"), "so that nobody takes it for one of the agent's own"
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"].endswith(f"/runbook.md#{name.lower()}")


def test_the_runbook_knows_every_rule() -> None:
    text = (FOLDER / "runbook.md").read_text()
    assert {line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")} == set(ALERTS)


@pytest.mark.parametrize(("name", "reasons"), [("AgentDrops", telemetry.REASONS), ("PointsLost", _live.REASONS)])
def test_the_runbook_explains_every_reason_for_which_something_is_dropped(name: str, reasons: Sequence[str]) -> None:
    section = (FOLDER / "runbook.md").read_text().split(f"## Rankscope{name}\n")[1].split("##")[0]
    assert set(reasons) == set(re.findall(r"`(\w+)`", section))


def test_recording_rules_are_named_level_metric_operation() -> None:
    for rule in RULES:
        if "record" in rule:
            level, metric, operation = rule["record"].split(":")
            assert level == "rankscope"
            assert metric.split("_")[0] in ("node", "run", "gpus", "alerts")
            assert operation
