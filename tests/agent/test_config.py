"""A configuration is used whole or refused with the line of each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankscope.agent.alerts.render import external_url
from rankscope.agent.config import Config, ConfigError, load
from rankscope.agent.model import Span

ROOT = Path(__file__).resolve().parents[2]


def read(tmp_path: Path, text: str, **environment: str) -> Config:
    path = tmp_path / "rankscope.yaml"
    path.write_text(text)
    return load(path, environment)


def mistakes(tmp_path: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, **environment)
    return [line.removeprefix(str(tmp_path) + "/") for line in str(caught.value).splitlines()]


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, "")
    assert config.http.listen == "127.0.0.1:9780"
    assert {"gpu", "cpu", "memory"} <= config.samplers.keys()
    assert "LossNaN" in dict(config.rules)


def test_a_key_with_a_typing_mistake_names_its_line_and_what_was_meant(tmp_path: Path) -> None:
    """The mistakes stand in the order of the lines, to be mended from the top."""
    text = "rules:\n  LowGpuUtilization:\n    tresh: 3\nhtpp: {}\n"
    assert mistakes(tmp_path, text) == [
        "rankscope.yaml:3: rules.LowGpuUtilization.tresh: unknown, did you mean threshold?",
        "rankscope.yaml:4: htpp: unknown, did you mean http?",
    ]


def test_rules_may_be_written_as_their_files_are_named(tmp_path: Path) -> None:
    assert "LossSpike" not in dict(read(tmp_path, "rules: {loss_spike: off}").rules)
    (line,) = mistakes(tmp_path, "rules: {loss_spike: {tresh: 3}}")
    assert line == "rankscope.yaml:1: rules.loss_spike.tresh: unknown, did you mean threshold?"


def test_a_rule_that_does_not_exist(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "rules: {LossSpikes: off}") == [
        "rankscope.yaml:1: rules.LossSpikes: unknown, did you mean LossSpike?"
    ]


def test_wrong_types_are_named(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "samplers:\n  gpu:\n    interval: soon\n")
    assert (
        line
        == "rankscope.yaml:3: samplers.gpu.interval: expected a duration such as 500ms, 30s, 2m or 4h, found 'soon'"
    )
    (line,) = mistakes(tmp_path, "grpc:\n  max_message_bytes: much\n")
    assert line.startswith("rankscope.yaml:2: grpc.max_message_bytes: ")
    assert line.endswith("found 'much'")


def test_no_yaml_at_all(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "rules: [\n")
    assert line.startswith("rankscope.yaml:2: ")
    assert mistakes(tmp_path, "- a\n- b\n") == [
        "rankscope.yaml:1: expected keys such as `http:` and `rules:`, found a list"
    ]


def test_a_key_given_twice_is_a_mistake(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "runs: {dir: /a}\nruns: {dir: /b}\n") == ["rankscope.yaml:2: runs: given twice"]


def test_durations_and_spans(tmp_path: Path) -> None:
    config = read(
        tmp_path, "samplers: {gpu: {interval: 2m}}\nrules: {LossSpike: {for: 5 steps}, LossNaN: {for: 1m30s}}\n"
    )
    assert config.samplers["gpu"].interval == 120.0
    assert dict(config.rules)["LossSpike"].for_ == Span(steps=5)
    assert dict(config.rules)["LossNaN"].for_ == Span(seconds=90.0)


def test_off_switches_a_component_off(tmp_path: Path) -> None:
    config = read(tmp_path, "rules: {LossSpike: off}\nsamplers: {disk: off}\nexporters: {tensorboard: off}\n")
    assert "LossSpike" not in dict(config.rules)
    assert "disk" not in config.samplers
    assert config.record is None


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = read(tmp_path, "http: {listen: '127.0.0.1:1'}", RANKSCOPE_HTTP__LISTEN="127.0.0.1:2")
    assert config.http.listen == "127.0.0.1:2"


def test_a_wrong_environment_variable_is_a_mistake(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "", RANKSCOPE_HTTP__LISTN="127.0.0.1:2")
    assert line.endswith("http.listn: unknown, did you mean listen?")


def test_the_sdks_variables_are_none_of_the_agents_business(tmp_path: Path) -> None:
    assert read(tmp_path, "", RANKSCOPE_RUN_ID="a", RANKSCOPE_MODE="online").http.listen == "127.0.0.1:9780"


def test_listening_beyond_this_machine_wants_a_word(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "http:\n  listen: 0.0.0.0:9780\n")
    assert "set web_config_file" in line
    assert read(tmp_path, "http: {listen: '0.0.0.0:9780', insecure: true}").http.insecure


def test_an_address_that_is_none(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "http: {listen: nowhere}")
    assert line == "rankscope.yaml:1: http: 'nowhere' is no host:port"


def test_links_lead_to_the_port_that_the_agent_listens_on(tmp_path: Path) -> None:
    text = "hostname: node-1\nhttp: {listen: '127.0.0.1:9791'}\n"
    alerts = read(tmp_path, text).alerts
    assert external_url(alerts, "node-1") == "http://node-1:9791"
    alerts = read(tmp_path, text + "alerts: {external_url: 'https://gate/rankscope/'}").alerts
    assert external_url(alerts, "node-1") == "https://gate/rankscope"
    (line,) = mistakes(tmp_path, "alerts: {page: x}")
    assert "alerts.page: unknown" in line
