"""`rankscope top`, against running agents with simulated GPUs and ranks that speak the protocol."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
import yaml

from rankscope.agent.demo.stage import free_port
from rankscope.agent.receivers.fake_rank import FakeRank
from tests.agent.commands.terminal import Terminal

pytestmark = pytest.mark.e2e

PROGRAM = [sys.executable, "-m", "rankscope.agent"]
PASSWORD = "correct horse"
PHASES = {"data": 0.01, "forward": 0.02, "backward": 0.03}
RUN = "fake-"  # how its name begins


class Node:
    """An agent that can go away and come back, and the ranks that it hears."""

    def __init__(self, folder: Path, **http: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.socket = f"unix:{folder}/a.sock"
        settings = {
            "http": {"listen": self.address, **http},
            "grpc": {"listen": f"unix://{folder}/a.sock"},
            "runs": {"dir": str(folder / "runs")},
            "journals": {"folders": [str(folder / "spool")]},
            "samplers": {"gpu": {"source": "simulated", "interval": "200ms"}},
        }
        (folder / "rankscope.yaml").write_text(yaml.safe_dump(settings))
        self._command = [*PROGRAM, "agent", "--config", str(folder / "rankscope.yaml")]
        self._log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://{self.address}/-/ready", timeout=1).status_code in (200, 401):
                    return
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextlib.contextmanager
def running(folder: Path, **http: str) -> Generator[Node, None, None]:
    node = Node(folder, **http)
    node.start()
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """An agent with a run of two ranks, on the second of which the loss became NaN."""
    with running(tmp_path_factory.mktemp("node")) as made, contextlib.ExitStack() as stack:
        for number in range(2):
            rank = stack.enter_context(FakeRank(made.socket, rank=number, world_size=2, config={"max_steps": 1000}))
            for step in range(40):
                loss = math.nan if number and step == 39 else 4.0 / (1 + step)
                rank.log(step, {"loss": loss, "lr": 3e-4, "grad_norm": 0.5, "val_loss": 2.0}, PHASES)
                time.sleep(0.002)  # steps take time: a pace is told of them
            rank.wait_safe()
        wait_for(made, lambda said: any(alert["state"] == "firing" for alert in said["alerts"]))
        wait_for(made, lambda said: all("states" in gpu for gpu in said["gpus"]) and said["gpus"])
        yield made


def top(address: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    variables |= {"RANKSCOPE_HTTP": address, "TZ": "UTC", **environment}
    command = [*PROGRAM, "top", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=60, check=False)


def document(address: str) -> dict[str, Any]:
    done = top(address, "--once", "--json")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def wait_for(node: Node, true: Callable[[dict[str, Any]], object]) -> None:
    deadline = time.monotonic() + 20
    while not true(said := document(node.address)):
        assert time.monotonic() < deadline, said


def test_one_picture_goes_to_a_pipe_without_colours(node: Node) -> None:
    done = top(node.address, COLUMNS="160")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "\x1b" not in text
    assert "2 ranks connected" in text
    assert "simulated: not in this machine" in text
    assert "step 39 of 1000" in text
    assert "LossNaN" in text
    assert "d data  f forward  b backward" in text
    [line] = [line for line in text.splitlines() if line.startswith("   1 ")]
    assert {"39", "NaN", "0.000300", "0.500", "!"} <= set(line.split())
    assert max(map(len, text.splitlines())) <= 160


def test_once_says_the_same_when_asked_for(node: Node) -> None:
    assert "2 ranks connected" in top(node.address, "--once", COLUMNS="80").stdout


def test_json_is_one_document_with_nan_as_a_string(node: Node) -> None:
    said = document(node.address)
    [run] = said["runs"]
    assert [rank["loss"] for rank in run["ranks"]] == [pytest.approx(0.1), "NaN"]
    assert run["ranks"][1]["loss_curve"][-1] == "NaN"
    assert run["ranks"][0]["phase_shares"].keys() == PHASES.keys()


def test_the_keys_of_the_json_are_frozen(node: Node, golden: Callable[[str, str], None]) -> None:
    """Programs read them: a rename is a decision. Keys that are names of things are `*`."""
    named = ("samplers", "dropped", "system", "states", "phase_seconds", "phase_shares", "labels", "annotations")

    def keys(value: object, path: str = "") -> set[str]:
        if isinstance(value, dict):
            inner = [keys(each, f"{path}.{'*' if path.endswith(named) else key}") for key, each in value.items()]
            return {path, *(name for each in inner for name in each)}
        if isinstance(value, list):
            return {path, *(name for each in value for name in keys(each, f"{path}[]"))}
        return {path}

    # What is resolved looks as what fires; whether a rank belongs to a GPU is known a moment later than the rest.
    said = document(node.address) | {"resolved": []}
    golden("top-json-keys.txt", "\n".join(sorted(keys(said) - {""})) + "\n")


def test_json_goes_on_line_by_line(node: Node) -> None:
    command = [*PROGRAM, "top", "--json", "--agent", node.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        times = [json.loads(process.stdout.readline())["time"] for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read().strip() == ""
    assert times == sorted(set(times))


def test_a_proxy_for_the_web_is_not_asked_for_this_machine(node: Node) -> None:
    done = top(node.address, "--once", http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [(), ("--once",), ("--json",), ("--once", "--json")])
def test_without_an_agent_it_is_one_line_and_status_3(arguments: tuple[str, ...]) -> None:
    done = top("http://me:s3cr3t@127.0.0.1:1", *arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert "rankscope agent" in done.stderr
    assert "s3cr3t" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_name_and_a_password_are_sent(tmp_path: Path) -> None:
    web = tmp_path / "web.yaml"
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    web.write_text(yaml.safe_dump({"basic_auth_users": {"kim": hashed}}))
    with running(tmp_path, web_config_file=str(web)) as guarded:
        refused = top(guarded.address)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (3, 1)
        assert "name:password" in refused.stderr
        allowed = top("", "--agent", f"http://kim:{PASSWORD.replace(' ', '%20')}@{guarded.address}")
        assert "no training has spoken to this agent yet" in allowed.stdout


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_live_it_fills_the_terminal_and_gives_it_back(node: Node, key: str) -> None:
    with Terminal([*PROGRAM, "top", "--agent", node.address], 100, 30) as terminal:
        terminal.wait("2 ranks connected")
        terminal.wait("q quits")
        assert "\x1b[?1049h" in terminal.text, "the alternate screen"
        assert "\x1b[?25l" in terminal.text, "without a cursor"
        before = terminal.text.count("2 ranks connected")
        terminal.wait("2 ranks connected", before + 2)  # redrawn by itself
        terminal.type(key)
        assert terminal.ended() == 0
        assert terminal.text.rindex("\x1b[?1049l") > terminal.text.rindex("\x1b[?1049h")
        assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
        assert terminal.cooked, "typed characters are shown again, and come by the line"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_as_cleanly(node: Node, number: signal.Signals) -> None:
    with Terminal([*PROGRAM, "top", "--agent", node.address], 100, 30) as terminal:
        terminal.wait("q quits")
        terminal.process.send_signal(number)
        assert terminal.ended() == 0
        assert "\x1b[?1049l" in terminal.text
        assert terminal.cooked


def test_it_follows_the_size_of_the_terminal(node: Node) -> None:
    with Terminal([*PROGRAM, "top", "--agent", node.address], 80, 24) as terminal:
        terminal.wait("q quits")
        assert "heard" not in terminal.text, "no room for that column"
        terminal.resize(180, 40)
        terminal.wait("heard")


def test_stopped_it_leaves_the_terminal_and_comes_back(node: Node) -> None:
    with Terminal(["bash", "--norc", "-i"], 100, 30, PS1="shell> ") as terminal:
        terminal.wait("shell> ")
        terminal.type(f"{' '.join(PROGRAM)} top --agent {node.address}\r")
        terminal.wait("q quits")
        terminal.type("\x1a")
        terminal.wait("Stopped")
        assert terminal.text.rindex("\x1b[?1049l") > terminal.text.rindex("\x1b[?1049h")
        terminal.wait("shell> ", 2)
        terminal.type("fg\r")
        terminal.wait("\x1b[?1049h", 2)
        terminal.wait_last(lambda text: "q quits" in text)
        terminal.type("q")
        terminal.wait("\x1b[?1049l", 2)
        terminal.type("exit\r")
        assert terminal.ended() in (0, 148)


def test_no_color_is_honoured(node: Node) -> None:
    with Terminal([*PROGRAM, "top", "--once", "--agent", node.address], 100, 30) as terminal:
        assert terminal.ended() == 0
        assert "\x1b[" in terminal.text, "colours on a terminal"
        assert "\x1b[?1049h" not in terminal.text
    with Terminal([*PROGRAM, "top", "--once", "--agent", node.address], 100, 30, NO_COLOR="1") as terminal:
        assert terminal.ended() == 0
        assert "\x1b[3" not in terminal.text
        assert "\x1b[9" not in terminal.text
        assert "d data" in terminal.text


def test_an_agent_that_goes_away_is_missed_and_welcomed_back(tmp_path: Path) -> None:
    with running(tmp_path) as node, Terminal([*PROGRAM, "top", "--agent", node.address], 120, 30) as terminal:
        with FakeRank(node.socket) as rank:
            rank.log(7, {"loss": 1.25})
            rank.wait_safe()
            terminal.wait("1 rank connected")
            node.stop()
            terminal.wait_last(lambda text: "agent lost" in text and "1.250" in text)  # the last picture stays
        assert terminal.process.poll() is None
        node.start()
        terminal.wait_last(lambda text: "● live" in text and "agent lost" not in text)
        terminal.type("q")
        assert terminal.ended() == 0


def test_an_agent_that_hangs_is_missed_too(tmp_path: Path) -> None:
    with running(tmp_path) as node, Terminal([*PROGRAM, "top", "--agent", node.address], 120, 30) as terminal:
        assert node.process is not None
        terminal.wait("● live")
        node.process.send_signal(signal.SIGSTOP)
        try:
            terminal.wait("did not answer in time")
        finally:
            node.process.send_signal(signal.SIGCONT)
        terminal.wait_last(lambda text: "● live" in text)
