"""The main job with real parts: torchrun → agent → Prometheus, TensorBoard's own reader, webhooks, Alertmanager."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankscope.agent.demo.stage import AgentProcess, agent
from rankscope.agent.demo.webhooks import Webhooks
from tests.grafana.stack import Prometheus, prometheus

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent / "scripts" / "tiny.py"
STEPS, NAN_FROM, NAN_TO = 150, 50, 60


def eventually(what: Callable[[], Any], patience: float = 30.0) -> Any:
    """Return the first true answer of `what`; fail when none comes in time."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"nothing after {patience:g} s")


def torchrun(agent: AgentProcess, *arguments: str, ranks: int = 2, restarts: int = 0) -> subprocess.Popen[bytes]:
    spool = Path(agent.socket).parent / "spool"
    environment = os.environ | {
        "RANKSCOPE_AGENT": f"unix:{agent.socket}",
        "RANKSCOPE_SPOOL": str(spool),
        "OMP_NUM_THREADS": "1",
    }
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        f"--max-restarts={restarts}",
    ]
    return subprocess.Popen([sys.executable, *launcher, *arguments], env=environment)


@dataclass
class Job:
    """What is left of a job that ran: where it was written, what it said it logged, who heard of it."""

    folder: Path
    told: list[list[dict[str, Any]]]
    webhooks: Webhooks
    agent: AgentProcess
    prometheus: Prometheus

    def query(self, expression: str) -> list[dict[str, Any]]:
        return self.prometheus.query(expression)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., str]) -> Iterator[Job]:
    program = require("prometheus", why="apt-get install prometheus")
    folder = tmp_path_factory.mktemp("job")
    with Webhooks() as webhooks, prometheus(program, folder) as server:
        config: dict[str, object] = {
            "notifiers": {"webhook": [{"url": webhooks.url}]},
            "samplers": {"gpu": {"source": "simulated"}},
            "alerts": {"resolve_after": "1s", "group_interval": "1s"},
        }
        with agent(folder / "runs", config, port=0) as running:
            server.scrape([running.url])
            process = torchrun(running, str(SCRIPT), str(folder), str(STEPS), str(NAN_FROM), str(NAN_TO), "0.03")
            assert process.wait(90) == 0
            (run,) = (folder / "runs" / "e2e").iterdir()
            told = [[json.loads(x) for x in (folder / f"logged_{r}.jsonl").read_text().splitlines()] for r in (0, 1)]
            yield Job(run, told, webhooks, running, server)


def test_prometheus_answers_for_the_loss_of_both_ranks(job: Job) -> None:
    losses = eventually(lambda: (found := job.query("rankscope_train_loss")) and len(found) == 2 and found)
    assert {loss["metric"]["rank"] for loss in losses} == {"0", "1"}
    assert {loss["metric"]["run"] for loss in losses} == {job.folder.name}
    steps = eventually(lambda: len(found := job.query(f"rankscope_train_step == {STEPS - 1}")) == 2 and found)
    assert len(steps) == 2
    for loss in job.query("rankscope_train_loss"):
        assert float(loss["value"][1]) == pytest.approx(job.told[int(loss["metric"]["rank"])][-1]["loss"])


def test_prometheus_counts_the_values_that_are_no_numbers(job: Job) -> None:
    found = eventually(lambda: job.query('rankscope_train_nonfinite_total{quantity="loss"} == 10'))
    assert {series["metric"]["rank"] for series in found} == {"0", "1"}


def test_the_scrape_itself_is_well(job: Job) -> None:
    assert [series["value"][1] for series in eventually(lambda: job.query("up"))] == ["1"]
    assert all(series["value"][1] == "1" for series in eventually(lambda: job.query("rankscope_sampler_up")))


def test_simulated_gpus_say_so(job: Job) -> None:
    assert eventually(lambda: job.query('rankscope_gpu_info{simulated="true"}'))
    assert not job.query('rankscope_gpu_info{simulated!="true"}')


def test_tensorboard_reads_every_step_of_every_rank_exactly(job: Job) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for rank in (0, 1):
        events = EventAccumulator(str(job.folder / f"rank_{rank:04d}"), size_guidance={"scalars": 0})
        events.Reload()
        scalars = events.Scalars("loss")
        assert [s.step for s in scalars] == list(range(STEPS))
        np.testing.assert_array_equal(
            np.array([s.value for s in scalars], np.float32),
            np.array([told["loss"] for told in job.told[rank]], np.float32),
        )
        for scalar, told in zip(scalars, job.told[rank], strict=True):
            assert scalar.wall_time == pytest.approx(told["time"], abs=0.25)
        assert {"phase/forward", "phase/backward", "phase/optimizer", "lr"} <= set(events.Tags()["scalars"])


def test_tensorboard_reads_hyper_parameters_in_the_run_that_holds_the_metrics(job: Job) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(job.folder / "rank_0000"))
    events.Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["lr"].number_value == 0.1
    assert hparams["note"].string_value == "a|b"


def test_the_run_says_who_it_was_and_how_it_ended(job: Job) -> None:
    record = eventually(lambda: (r := json.loads((job.folder / "run.json").read_text()))["state"] == "finished" and r)
    assert record["config"]["lr"] == 0.1
    assert record["project"] == "e2e"


def test_a_nan_is_one_notification_and_is_resolved(job: Job) -> None:
    bodies = eventually(lambda: [a.body for a in job.webhooks.arrivals if _name(a.body) == "LossNaN"])
    resolved = eventually(
        lambda: [a.body for a in job.webhooks.arrivals if (_name(a.body), a.body["status"]) == ("LossNaN", "resolved")]
    )
    assert [body["status"] for body in bodies].count("firing") == 1
    assert len(resolved) == 1
    (alert,) = bodies[0]["alerts"]
    assert alert["labels"]["run"] == job.folder.name
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["step"] == str(NAN_FROM)
    assert alert["annotations"]["ranks"] == "0, 1"
    assert alert["endsAt"] == "0001-01-01T00:00:00Z"
    assert bodies[0]["version"] == "4"


def test_alerts_are_kept_with_the_run(job: Job) -> None:
    lines = [json.loads(x) for x in (job.folder / "alerts.jsonl").read_text().splitlines()]
    assert {"LossNaN"} <= {str(line["labels"]["alertname"]) for line in lines}


def test_nothing_was_lost_on_the_way(job: Job) -> None:
    found = eventually(lambda: job.query("rankscope_ingest_points_total"))
    per_rank = {series["metric"]["rank"]: float(series["value"][1]) for series in found}
    assert min(per_rank.values()) >= 2 * STEPS
    assert not math.isnan(sum(per_rank.values()))
    dropped = {
        series["metric"]["reason"]: series["value"][1] for series in job.query("rankscope_agent_dropped_total > 0")
    }
    assert dropped == {}


def _name(body: dict[str, Any]) -> str:
    return str(body["commonLabels"].get("alertname"))
