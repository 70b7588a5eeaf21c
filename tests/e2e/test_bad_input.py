"""Whatever comes in, the agent answers with one clear line or a counted refusal, and goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from rankscope.agent.demo.stage import AgentProcess
from rankscope.agent.receivers.fake_rank import FakeRank
from rankscope.v1 import ingest_pb2

pytestmark = pytest.mark.e2e


def rankscope(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rankscope.agent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def one_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the only line on stderr, without what the agent logged in passing."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("rankscope: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def series(running: AgentProcess, name: str, **labels: str) -> list[float]:
    """Return the values of a metric on the agent's page whose labels include these."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    return [float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(name + "{") and all(w in x for w in wanted)]


def goes_on(running: AgentProcess) -> None:
    """The agent still takes points from a rank that means well."""
    assert running.process.poll() is None
    with FakeRank(f"unix:{running.socket}", run_id=f"well-{time.monotonic_ns()}") as rank:
        rank.log(1, {"loss": 1.0})
        rank.wait_safe()


@pytest.fixture(autouse=True)
def _still_well(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "running" in request.fixturenames:
        goes_on(request.getfixturevalue("running"))


class TestStart:
    def test_an_unknown_key(self, tmp_path: Path) -> None:
        (tmp_path / "r.yaml").write_text("rules: {LossSpike: {tresh: 1}}\n")
        line = one_line(rankscope("agent", "--config", str(tmp_path / "r.yaml")), 1)
        assert "r.yaml:1: rules.LossSpike.tresh: unknown" in line

    def test_check_says_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "r.yaml").write_text("rules: {LossSpike: {tresh: 1}}\n")
        assert "unknown" in one_line(rankscope("check", str(tmp_path / "r.yaml")), 1)
        (tmp_path / "r.yaml").write_text("rules: {LossSpike: off}\n")
        assert rankscope("check", str(tmp_path / "r.yaml")).returncode == 0

    def test_a_configuration_that_is_not_there(self, tmp_path: Path) -> None:
        assert "nowhere.yaml" in one_line(rankscope("agent", "--config", str(tmp_path / "nowhere.yaml")), 3)

    def test_a_busy_port(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            line = one_line(
                rankscope("agent", "--http", address, "--runs", str(tmp_path), "--listen", f"unix://{tmp_path}/s"), 3
            )
        assert address in line
        assert "--http" in line

    def test_a_runs_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        line = one_line(rankscope("agent", "--runs", str(tmp_path / "file" / "runs"), "--http", "127.0.0.1:0"), 3)
        assert "cannot write" in line
        assert "--runs" in line

    def test_a_socket_path_that_is_too_long(self, tmp_path: Path) -> None:
        path = tmp_path / ("x" * 120)
        line = one_line(
            rankscope("agent", "--listen", f"unix://{path}", "--runs", str(tmp_path), "--http", "127.0.0.1:0"), 3
        )
        assert "107 bytes" in line

    def test_a_second_agent_on_the_same_socket(self, running: AgentProcess, tmp_path: Path) -> None:
        line = one_line(
            rankscope(
                "agent", "--listen", f"unix://{running.socket}", "--runs", str(tmp_path), "--http", "127.0.0.1:0"
            ),
            3,
        )
        assert "another agent listens" in line


class TestStream:
    def test_a_run_that_wants_out_of_the_runs_folder(self, running: AgentProcess, runs: Path) -> None:
        outside = set(os.listdir(runs.parent))
        with FakeRank(f"unix:{running.socket}", run_id="../../x", project="../../etc", name="../../etc/x") as rank:
            rank.log(1, {"../../../loss": 1.0})
            rank.goodbye(1)
            rank.wait_safe()
            assert rank.welcome is not None
            name = rank.welcome.run
        assert "/" not in name
        assert set(os.listdir(runs.parent)) == outside
        (folder,) = list(runs.glob(f"*/{name}"))
        assert folder.resolve().is_relative_to(runs.resolve())
        assert list(folder.glob("rank_0000/events.out.tfevents*"))

    def test_a_hundred_thousand_metric_names_are_refused_and_counted(self, running: AgentProcess) -> None:
        before = sum(series(running, "rankscope_agent_dropped_total", reason="series_limit"))
        with FakeRank(f"unix:{running.socket}", run_id="names", name="names") as rank:
            for start in range(0, 100_000, 1000):
                rank.log(start, {f"metric_{i}": 1.0 for i in range(start, start + 1000)})
            rank.wait_safe(60)
            after = sum(series(running, "rankscope_agent_dropped_total", reason="series_limit"))
            values = series(running, "rankscope_train_value", run=rank.welcome.run if rank.welcome else "")
        assert after - before >= 90_000
        assert len(values) <= 32

    def test_a_message_of_50_megabytes(self, running: AgentProcess) -> None:
        with FakeRank(f"unix:{running.socket}", run_id="large") as rank:
            text = ingest_pb2.Text(tag="large", value="x" * 50_000_000)
            rank.event(1, ingest_pb2.Event(text=text))
            assert rank.wait_refused(30).code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_garbage_bytes_on_the_socket(self, running: AgentProcess) -> None:
        for garbage in (
            b"\x00" * 4096,
            os.urandom(65536),
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxx",
        ):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(running.socket)
                raw.settimeout(10)
                try:
                    raw.sendall(garbage)
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(4096):
                        pass
                except OSError:
                    pass  # the agent closed first: as good an answer

    @pytest.mark.parametrize(
        ("message", "complaint"),
        [
            (ingest_pb2.FromRank(hello=ingest_pb2.Hello(run_id="x", session=1)), "hello comes once"),
            (ingest_pb2.FromRank(batch=ingest_pb2.Batch()), "a batch has a first sequence number"),
            (
                ingest_pb2.FromRank(
                    batch=ingest_pb2.Batch(
                        first_sequence=1,
                        records=1,
                        blocks=[ingest_pb2.Block(series=[7], step=[1], monotonic_ns=[1], value=[1.0])],
                    )
                ),
                "series 7 was never named",
            ),
            (
                ingest_pb2.FromRank(
                    batch=ingest_pb2.Batch(
                        first_sequence=1,
                        records=2,
                        series=[ingest_pb2.Series(id=0, name="loss")],
                        blocks=[ingest_pb2.Block(series=[0], step=[1, 2], monotonic_ns=[1, 2], value=[1.0])],
                    )
                ),
                "2 rows",
            ),
        ],
    )
    def test_a_message_that_makes_no_sense(
        self, running: AgentProcess, message: ingest_pb2.FromRank, complaint: str
    ) -> None:
        with FakeRank(f"unix:{running.socket}", run_id=f"nonsense-{time.monotonic_ns()}") as rank:
            rank.send(message)
            error = rank.wait_refused()
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert complaint in (error.details() or "")

    @pytest.mark.parametrize(
        "hello",
        [
            ingest_pb2.Hello(),
            ingest_pb2.Hello(run_id="x", session=1, rank=5, world_size=2),
            ingest_pb2.Hello(run_id="x", session=1, config_json="[1]"),
            ingest_pb2.Hello(run_id="x", session=1, config_json="{" * 100_000),
        ],
    )
    def test_a_hello_that_makes_no_sense(self, running: AgentProcess, hello: ingest_pb2.Hello) -> None:
        rank = FakeRank(f"unix:{running.socket}")
        rank.hello = hello
        with pytest.raises(grpc.RpcError) as caught, rank:
            pass
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    def test_records_sent_twice_count_once(self, running: AgentProcess) -> None:
        with FakeRank(f"unix:{running.socket}", run_id="twice", name="twice") as rank:
            rank.log(1, {"loss": 1.0})
            rank.wait_safe()
            rank.sent = 0
            rank.log(1, {"loss": 1.0})
            rank.log(2, {"loss": 2.0})
            rank.wait_safe()
            run = rank.welcome.run if rank.welcome else ""
            assert series(running, "rankscope_ingest_points_total", run=run) == [2.0]


class TestHttp:
    def test_unknown_paths_and_wrong_queries_are_answered(self, running: AgentProcess) -> None:
        for path in ("/nowhere", "/api/v1/runs/none", "/api/v1/runs/none/series?name=x", "/../../etc/passwd"):
            assert httpx.get(running.url + path).status_code in (400, 404), path
        assert httpx.get(f"{running.url}/api/v1/runs/x/series?name=a&points=many").status_code in (400, 404)
