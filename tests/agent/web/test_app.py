"""What the agent answers over HTTP, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import TYPE_CHECKING

import httpx
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from rankscope.agent.web import stream

if TYPE_CHECKING:
    from .conftest import Agent

NOW = 1_790_000_000.0
RUN = "exp-1-0a1b2c3d"
SILENCE = {
    "matchers": [{"name": "alertname", "value": "LossNaN", "isRegex": False}],
    "startsAt": "2026-09-21T12:00:00Z",
    "endsAt": "2099-01-01T00:00:00Z",
    "createdBy": "kim",
    "comment": "known",
}


async def test_metrics_are_text_or_openmetrics_as_the_scraper_asks(agent: Agent, client: httpx.AsyncClient) -> None:
    agent.attach()
    text = await client.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f'rankscope_rank_up{{hostname="host-a",rank="0",run="{RUN}"}} 1.0' in text.text
    open_metrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.text.endswith("# EOF\n")


async def test_health_is_apart_from_readiness(agent: Agent, client: httpx.AsyncClient) -> None:
    assert (await client.get("/-/ready")).status_code == 200
    agent.ready = False
    assert (await client.get("/-/ready")).status_code == 503
    assert (await client.get("/-/healthy")).status_code == 200


async def test_reload_says_why_it_was_refused(agent: Agent, client: httpx.AsyncClient) -> None:
    assert (await client.post("/-/reload")).status_code == 200
    agent.refusal = "rules.LossSpik: unknown, did you mean LossSpike?"
    refused = await client.post("/-/reload")
    assert (refused.status_code, agent.refusal in refused.text) == (500, True)
    assert (await client.get("/-/reload")).status_code == 405
    assert agent.reloads == 2


@pytest.mark.parametrize("path", ["/-/reload", "/api/v1/silences"])
async def test_a_page_of_a_stranger_changes_nothing(agent: Agent, client: httpx.AsyncClient, path: str) -> None:
    """A browser on this machine can be made to send requests here by any page that it shows."""
    refused = await client.post(path, json=SILENCE, headers={"Origin": "https://evil.example"})
    assert refused.status_code == 403
    assert agent.reloads == 0
    assert agent.alerts.silences.list(NOW) == []
    assert (await client.post(path, json=SILENCE, headers={"Origin": "http://localhost:9780"})).status_code == 200


async def test_a_run_is_shown_with_its_ranks(agent: Agent, client: httpx.AsyncClient) -> None:
    agent.gpus(2)
    for index in (0, 1):
        rank = agent.attach(index, config={"lr": 1e-3, "bad": math.nan})
        agent.log(rank, [2.0, 1.0 + index])
    [run] = (await client.get("/api/v1/runs")).json()["runs"]
    assert (run["id"], run["project"], run["state"], run["world_size"]) == (RUN, "demo", "running", 2)
    assert [(rank["rank"], rank["step"], rank["loss"], rank["gpu"]) for rank in run["ranks"]] == [
        (0, 1, 1.0, "0"),
        (1, 1, 2.0, "1"),
    ]
    details = (await client.get(f"/api/v1/runs/{RUN}")).json()
    assert details["config"] == {"lr": 1e-3, "bad": "NaN"}
    assert details["series"] == ["loss"]
    assert (await client.get("/api/v1/runs/run-7")).json()["id"] == RUN, "a run is found by its own id too"
    status = (await client.get("/api/v1/status")).json()
    assert status["hostname"] == "host-a"


async def test_a_curve_keeps_nan_and_infinity(agent: Agent, client: httpx.AsyncClient) -> None:
    agent.log(agent.attach(), [1.5, math.nan, math.inf, -math.inf], first=10)
    [curve] = (await client.get(f"/api/v1/runs/{RUN}/series?name=loss")).json()["series"]
    assert curve["step"] == [10, 11, 12, 13]
    assert curve["value"] == [1.5, "NaN", "Infinity", "-Infinity"]


async def test_a_curve_is_found_by_role_and_cut_by_step_and_rank(agent: Agent, client: httpx.AsyncClient) -> None:
    for index in (0, 1):
        agent.log(agent.attach(index), [float(i) for i in range(100)])
    answer = await client.get(f"/api/v1/runs/{RUN}/series?name=loss&from=20&to=24&rank=1")
    [curve] = answer.json()["series"]
    assert (curve["rank"], curve["step"], curve["value"]) == (1, [20, 21, 22, 23, 24], [20.0, 21.0, 22.0, 23.0, 24.0])


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("name=loss&points=many", 400),
        ("name=loss&points=0", 400),
        ("name=loss&points=10000000", 400),
        ("name=loss&from=x", 400),
        (f"name=loss&to={10**30}", 400),
        ("rank=-1", 400),
        ("name=nowhere", 200),
        (f"name={'x' * 9000}", 414),
    ],
)
async def test_a_wrong_query_is_answered_in_one_line(
    agent: Agent, client: httpx.AsyncClient, query: str, status: int
) -> None:
    agent.log(agent.attach(), [1.0])
    answer = await client.get(f"/api/v1/runs/{RUN}/series?{query}")
    assert answer.status_code == status
    if status != 200:
        assert "\n" not in answer.json()["error"]


async def test_what_is_not_there_is_404_in_json(client: httpx.AsyncClient) -> None:
    for path in (
        "/nowhere",
        "/api/v1/runs/none",
        "/api/v1/runs/none/series",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
    ):
        answer = await client.get(path)
        assert (answer.status_code, list(answer.json())) == (404, ["error"]), path


async def test_alerts_carry_nan_as_a_string(client: httpx.AsyncClient) -> None:
    [alert] = (await client.get("/api/v1/alerts")).json()["alerts"]
    assert alert["value"] == "NaN"


async def test_a_silence_is_made_listed_and_expired(client: httpx.AsyncClient) -> None:
    made = (await client.post("/api/v1/silences", json=SILENCE)).json()["silenceID"]
    [listed] = (await client.get("/api/v1/silences")).json()["silences"]
    assert (listed["id"], listed["status"]["state"], listed["createdBy"]) == (made, "active", "kim")
    assert (await client.delete(f"/api/v1/silences/{made}")).json()["status"]["state"] == "expired"
    assert (await client.delete("/api/v1/silences/none")).status_code == 404


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b'{"matchers": []}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b'"' + b"x" * 70_000 + b'"', "application/json", 413),
    ],
)
async def test_a_silence_that_is_wrong_is_refused(
    client: httpx.AsyncClient, content: bytes, content_type: str, status: int
) -> None:
    answer = await client.post("/api/v1/silences", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert "\n" not in answer.json()["error"]


async def test_answers_cannot_be_framed_or_sniffed(client: httpx.AsyncClient) -> None:
    for path in ("/", "/metrics", "/api/v1/status", "/nowhere"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


async def test_the_stream_sends_the_state_and_ends_with_the_agent(agent: Agent, client: httpx.AsyncClient) -> None:
    agent.log(agent.attach(), [math.nan])
    agent.ready = False  # the agent drains: what it knows is sent once more, and the stream ends
    async with client.stream("GET", "/api/v1/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = (await answer.aread()).decode()
    [data] = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    shown = json.loads(data)
    assert shown["runs"][0]["ranks"][0]["loss"] == "NaN"
    assert shown["alerts"][0]["labels"]["alertname"] == "LossNaN"


async def test_so_many_may_watch_and_no_more(agent: Agent, client: httpx.AsyncClient) -> None:
    watching = [asyncio.ensure_future(client.get("/api/v1/stream")) for _ in range(stream.WATCHERS + 3)]
    refused = [task.result() for task in await _first(watching, 3)]
    assert [answer.status_code for answer in refused] == [503] * 3
    agent.ready = False
    answers = await asyncio.gather(*watching)
    assert sum(answer.status_code == 200 for answer in answers) == stream.WATCHERS
    assert (await client.get("/api/v1/stream")).status_code == 200, "who left makes room"


async def _first(tasks: list[asyncio.Task[httpx.Response]], count: int) -> set[asyncio.Task[httpx.Response]]:
    """Return the tasks that end while the others go on, once they are `count`."""
    done: set[asyncio.Task[httpx.Response]] = set()
    while len(done) < count:
        more, _ = await asyncio.wait(set(tasks) - done, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert more, "nothing was refused"
        done |= more
    return done


async def test_the_page_brings_everything_with_it(client: httpx.AsyncClient) -> None:
    """No address outside of the agent, and every file that the page names is served."""
    page = (await client.get("/")).text
    names = re.findall(r'(?:src|href)="([^"]+)"', page)
    modules = [name for name in names if name.endswith("page.js")]
    text = (await client.get(modules[0])).text
    names += [f"/static/{name}" for name in re.findall(r'from "\./([a-z]+\.js)"', text)]
    assert len(names) > 10
    assert not re.search(r"https?://", page + text)
    for name in names:
        assert (await client.get(name)).status_code == 200, name


async def test_vendored_code_comes_with_its_licence(client: httpx.AsyncClient) -> None:
    assert "MIT" in (await client.get("/static/vendor/uplot-LICENSE")).text


async def test_a_run_that_is_over_is_shown_from_disk(agent: Agent, client: httpx.AsyncClient) -> None:
    """By the record alone: the agent forgot the run, or never knew it."""
    folder = agent.view.runs_dir / "demo" / "old-12345678"
    (folder / "rank_0001").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"run_id": "old-id", "state": "finished", "config": {"lr": 0.1}}))
    writer = EventFileWriter(str(folder / "rank_0001"))
    for step in range(5):
        value = Summary(value=[Summary.Value(tag="train/loss", simple_value=math.nan if step == 3 else 1.5 * step)])
        writer.add_event(Event(step=step, wall_time=NOW + step, summary=value))
    writer.close()
    (agent.view.runs_dir / "demo" / "broken-1").mkdir()
    (agent.view.runs_dir / "demo" / "broken-1" / "run.json").write_text("[")
    listed = (await client.get("/api/v1/runs")).json()
    assert [(run["id"], run["project"], run["state"]) for run in listed["archive"]] == [
        ("old-12345678", "demo", "finished")
    ]
    assert (await client.get("/api/v1/runs/old-id")).json()["config"] == {"lr": 0.1}
    [curve] = (await client.get("/api/v1/runs/old-12345678/series?name=loss&from=1")).json()["series"]
    assert (curve["rank"], curve["step"], curve["value"]) == (1, [1, 2, 3, 4], [1.5, 3.0, "NaN", 6.0])


async def test_a_curve_longer_than_the_window_begins_on_disk(agent: Agent, client: httpx.AsyncClient) -> None:
    folder = agent.view.runs_dir / "demo" / RUN / "rank_0000"
    folder.mkdir(parents=True)
    writer = EventFileWriter(str(folder))
    for step in range(3000):
        value = Summary(value=[Summary.Value(tag="loss", simple_value=100.0 if step == 50 else 1.0)])
        writer.add_event(Event(step=step, wall_time=NOW - 3000 + step, summary=value))
    writer.close()
    agent.log(agent.attach(), [1.0] * 3000)
    [curve] = (await client.get(f"/api/v1/runs/{RUN}/series?name=loss&points=100")).json()["series"]
    assert (curve["step"][0], curve["step"][-1], curve["count"]) == (0, 2999, 3000)
    assert curve["value"][curve["step"].index(50)] == 100.0, "a peak that left the window is still there"


@pytest.mark.parametrize("name", ["..", "../../etc", "%2e%2e", "*", "demo"])
async def test_no_path_is_made_of_what_is_asked_for(agent: Agent, client: httpx.AsyncClient, name: str) -> None:
    (agent.view.runs_dir / "demo" / "old-12345678").mkdir(parents=True)
    assert (await client.get(f"/api/v1/runs/{name}/series")).status_code == 404


async def test_a_rule_is_explained_where_its_runbook_leads(client: httpx.AsyncClient) -> None:
    explained = (await client.get("/api/v1/rules/LossNaN")).json()
    assert explained["name"] == "LossNaN"
    assert len(explained["documentation"]) > 40
    assert "LossNaN" in {rule["name"] for rule in (await client.get("/api/v1/rules")).json()["rules"]}
    assert (await client.get("/api/v1/rules/LossNull")).status_code == 404


async def test_ranks_are_asked_where_they_are(agent: Agent, client: httpx.AsyncClient) -> None:
    agent.attach()
    answer = (await client.post(f"/api/v1/runs/{RUN}/stacks")).json()
    assert answer["run"] == RUN
    (rank,) = answer["ranks"]
    assert (rank["rank"], rank["text"], rank["refused"], rank["file"]) == (0, "rank 0 is here", "", None)
    assert (await client.get(f"/api/v1/runs/{RUN}/stacks")).status_code == 405, "it makes the ranks do something"


@pytest.mark.parametrize(
    ("path", "status"), [(f"{RUN}/stacks?rank=3", 404), (f"{RUN}/stacks?rank=x", 400), ("no/stacks", 404)]
)
async def test_who_is_not_here_is_not_asked(agent: Agent, client: httpx.AsyncClient, path: str, status: int) -> None:
    agent.attach()
    answer = await client.post(f"/api/v1/runs/{path}")
    assert answer.status_code == status
    assert answer.json()["error"]
