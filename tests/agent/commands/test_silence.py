"""`rankscope silence`, against a running agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from rankscope.agent.demo import stage

pytestmark = pytest.mark.e2e

Rankscope = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("agent")
    address = f"127.0.0.1:{stage.free_port()}"
    command = [sys.executable, "-m", "rankscope.agent", "agent", "--http", address, "--runs", str(folder / "runs")]
    command += ["--listen", f"unix:{folder}/a.sock"]
    with stage.server("the agent", command, f"http://{address}", folder / "log"):
        yield address


@pytest.fixture
def rankscope(agent: str) -> Rankscope:
    def run(*arguments: str, address: str = agent) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"RANKSCOPE_HTTP": address, "COLUMNS": "160", "TZ": "UTC"}
        command = [sys.executable, "-m", "rankscope.agent", "silence", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)

    return run


def listed(rankscope: Rankscope, *arguments: str) -> list[dict[str, object]]:
    done = rankscope("list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    silences: list[dict[str, object]] = json.loads(done.stdout)["silences"]
    return silences


def test_made_listed_and_expired(rankscope: Rankscope) -> None:
    made = rankscope("LossNaN", r"run=~exp-\d+", "--for", "2h", "--why", "a known bad batch")
    assert made.returncode == 0, made.stderr
    name = made.stdout.splitlines()[0]
    assert r'alertname="LossNaN", run=~"exp-\d+"' in made.stdout
    assert "no alert is active that it matches" in made.stdout
    (silence,) = listed(rankscope)
    assert silence["id"] == name
    assert silence["comment"] == "a known bad batch"
    table = rankscope("list").stdout
    assert name[:8] in table
    assert "a known bad batch" in table
    assert rankscope("expire", name[:6]).stdout == f"expired {name}\n"
    assert listed(rankscope) == []
    assert [s["id"] for s in listed(rankscope, "--expired")] == [name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=~("], "no regular expression"),
        (["run=~.*"], "everything would be silent"),
        (["two words"], "no matcher"),
        (["LossNaN", "--for", "2x"], "no duration"),
        (["expire", "zz"], "rankscope silence list"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(rankscope: Rankscope, arguments: list[str], message: str) -> None:
    done = rankscope(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("matcher", "said"),
    [
        ("LossSpik", "no rule's name is LossSpik; did you mean LossSpike?"),
        ("alertname=lossnan", "did you mean LossNaN?"),
        ("alertname=AccuracyTooLow", "`rankscope rules` lists them"),
        ("alertname=~Gup.*", "no rule's name is like Gup.*"),
        ("alertname=~Gpu.*", ""),
        ("UserAlert", ""),
        ("run=LossSpik", ""),
    ],
)
def test_a_name_that_no_rule_has_is_doubted_but_taken(rankscope: Rankscope, matcher: str, said: str) -> None:
    """An alert of one's own may have any name: MetricThreshold's have."""
    done = rankscope("--json", matcher)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr if said else done.stderr == ""
    assert json.loads(done.stdout)["silenceID"]


def test_without_an_agent_it_says_what_to_do_with_status_3(rankscope: Rankscope) -> None:
    done = rankscope("LossNaN", address="http://me:s3cr3t@127.0.0.1:1")
    assert done.returncode == 3
    assert "rankscope agent" in done.stderr
    assert "s3cr3t" not in done.stderr
