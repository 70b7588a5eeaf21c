"""`rankscope diagnose`, `backtest`, `rules`: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rankscope.agent.cli import cli


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.jsonl"
    lines = [{"step": i, "t": 1.7e9 + i, "loss": 2.0 / (1 + i / 10) if i != 40 else "NaN"} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def well(tmp_path: Path) -> Path:
    path = tmp_path / "well.csv"
    path.write_text("step,loss\n" + "\n".join(f"{i},{2.0 / (1 + i / 10)}" for i in range(60)))
    return path


def test_json_is_one_line_a_finding_with_the_contracts_keys(broken: Path) -> None:
    result = run("diagnose", broken, "--json")
    (finding,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert list(finding) == [
        "rule", "severity", "run", "rank", "step", "time", "value", "summary", "causes", "status",
    ]  # fmt: skip
    assert (finding["rule"], finding["severity"], finding["step"]) == ("LossNaN", "critical", 40)
    assert (finding["value"], finding["time"], finding["status"]) == ("NaN", 1.7e9 + 40, "firing")
    assert set(finding["causes"][0]) == {"cause", "evidence", "fix"}


def test_text_names_finding_evidence_and_fix(broken: Path) -> None:
    result = run("diagnose", broken)
    assert result.exit_code == 1
    for words in ("LossNaN", "loss is NaN at step 40", "→", "1 found in 60 rows"):
        assert words in result.stdout


def test_a_well_run_ends_with_0_and_says_what_could_not_be_judged(well: Path) -> None:
    result = run("diagnose", well)
    assert result.exit_code == 0
    assert "nothing found in 60 rows" in result.stdout
    assert "no gradient norm was logged" in result.stdout


@pytest.mark.parametrize("content", ["", "nothing here\n", "\0\1\2"])
def test_what_cannot_be_read_ends_with_3_and_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.log"
    path.write_text(content)
    result = run("diagnose", path)
    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1
    assert run("diagnose", tmp_path / "absent").exit_code == 3


def test_an_unknown_rule_is_wrong_use(broken: Path) -> None:
    assert run("diagnose", broken, "--rule", "Nonsense").exit_code == 2


def test_only_some_rules(broken: Path) -> None:
    assert run("diagnose", broken, "--rule", "LossSpike").exit_code == 0


def test_backtest_judges_by_the_rules_of_a_configuration(tmp_path: Path, broken: Path) -> None:
    config = tmp_path / "rules.yaml"
    config.write_text(
        "rules:\n  LossNaN: off\n  MetricThreshold:\n  - {name: LossHigh, expr: 'loss > 1.5', severity: info}\n"
    )
    result = run("backtest", config, broken, "--json")
    assert result.exit_code == 0
    assert [json.loads(line)["rule"] for line in result.stdout.splitlines()] == ["LossHigh"]
    assert "LossHigh" in run("backtest", config, broken).stdout


def test_backtest_refuses_a_wrong_configuration_by_its_line(tmp_path: Path, broken: Path) -> None:
    config = tmp_path / "rules.yaml"
    config.write_text("rules:\n  LossSpike: {tresh: 1}\n")
    result = run("backtest", config, broken)
    assert result.exit_code == 1
    assert "rules.yaml:2: rules.LossSpike.tresh: unknown" in result.stderr


def test_rules_are_listed_with_defaults_and_needs() -> None:
    known = json.loads(run("rules", "--json").stdout)
    spike = next(rule for rule in known if rule["name"] == "LossSpike")
    assert spike["severity"] == "warning"
    assert spike["needs"] == ["loss"]
    assert spike["parameters"]["window"] == 128
    assert "LossSpike" in run("rules").stdout
    assert "Defaults:" in run("rules", "LossSpike").stdout
    assert run("rules", "Nonsense").exit_code == 2


def test_every_rule_explains_itself() -> None:
    for rule in json.loads(run("rules", "--json").stdout):
        assert rule["documentation"].count("\n\n") >= 1, rule["name"]
        assert "Needs" in rule["documentation"], rule["name"]
        assert "Defaults" in rule["documentation"], rule["name"]
