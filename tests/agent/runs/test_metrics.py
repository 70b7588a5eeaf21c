"""Runs and ranks are exported as the catalogue says, and only what is known."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest

from rankscope.agent import telemetry
from rankscope.agent.model import (
    Batch,
    Block,
    Column,
    End,
    Goodbye,
    Heartbeat,
    Histogram,
    Metric,
    RankInfo,
    RankKey,
    Sample,
)
from rankscope.agent.runs import metrics
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.readings import Selection
from rankscope.agent.runs.state import Node

NOW = 1_790_000_000.0

GPU_INFO = Metric("gpu_info", "info", "Facts of a GPU.", ("gpu", "uuid", "name", "simulated"))

# The catalogue as users see it, without `hostname`, which every series carries.
CATALOGUE = {
    "agent_build_info": "version python_version nvml_version driver_version cuda_version",
    "agent_start_time_seconds": "",
    "agent_dropped_total": "reason",
    "agent_series": "",
    "agent_clock_jumps_total": "direction",
    "agent_cpu_seconds_total": "",
    "agent_resident_memory_bytes": "",
    "sampler_up": "sampler",
    "sampler_duration_seconds": "sampler",
    "sampler_last_success_timestamp_seconds": "sampler",
    "sampler_errors_total": "sampler",
    "run_info": "run run_id project framework model parallelism user job_id",
    "run_world_size": "run",
    "run_local_ranks": "run",
    "run_start_time_seconds": "run",
    "run_last_event_timestamp_seconds": "run",
    "run_target_steps": "run",
    "rank_info": "run rank local_rank gpu uuid pid workload_container workload_namespace workload_pod",
    "rank_up": "run rank",
    "rank_attempt": "run rank",
    "rank_last_step_timestamp_seconds": "run rank",
    "rank_step_time_ratio": "run rank",
    "rank_straggler": "run rank",
    "rank_exit_info": "run rank attempt reason",
    "train_step": "run rank",
    "train_steps_total": "run rank",
    "train_epoch": "run rank",
    "train_samples_total": "run rank",
    "train_tokens_total": "run rank",
    "train_loss": "run rank",
    "train_val_loss": "run rank",
    "train_learning_rate": "run rank group",
    "train_grad_norm": "run rank",
    "train_grad_norm_share": "run rank",
    "train_grad_scale": "run rank",
    "train_nonfinite_total": "run rank quantity",
    "train_skipped_steps_total": "run rank",
    "train_step_duration_seconds": "run rank",
    "train_step_phase_seconds_total": "run rank phase",
    "train_gpu_memory_allocated_bytes": "run rank",
    "train_gpu_memory_peak_bytes": "run rank",
    "train_checkpoint_duration_seconds": "run rank",
    "train_last_checkpoint_timestamp_seconds": "run rank",
    "train_flops_utilization_ratio": "run rank",
    "train_value": "run rank name",
    "train_update_ratio": "run rank",
    "sdk_log_seconds": "run rank quantile",
    "sdk_overhead_ratio": "run rank",
    "sdk_dropped_points_total": "run rank reason",
    "sdk_journal_bytes": "run rank",
    "ingest_points_total": "run rank",
    "ingest_lag_seconds": "run rank",
}

ROWS = [*telemetry.METRICS, *metrics.METRICS]


def attach(node: Node, rank: int = 0, **changes: object) -> Rank:
    given: dict[str, object] = {"world_size": 2, "local_rank": rank, "pid": 4000 + rank, "started": NOW - 60, **changes}
    info = RankInfo(RankKey("demo", "exp-1-0a1b2c3d", rank), session=rank + 1, run_id="run-7", **given)  # type: ignore[arg-type]
    return node.attach(info, NOW)


def log(rank: Rank, steps: Iterable[int], seconds: float = 0.1, **values: float) -> None:
    """Log the same values at each step, `seconds` apart, the last one at NOW."""
    at = np.array(list(steps))
    phases = {name[6:]: value for name, value in values.items() if name.startswith("phase_")}
    scalars = {name: value for name, value in values.items() if not name.startswith("phase_")}
    columns = (*(Column(name.replace("__", "/")) for name in scalars), *(Column(name, "phase") for name in phases))
    table = np.tile(np.array([*scalars.values(), *phases.values()], float), (len(at), 1))
    times = NOW - seconds * np.arange(len(at) - 1, -1, -1.0)
    rank.apply(Batch(1, len(at), (Block(columns, at, times, table),)), NOW)


def read(
    node: Node, name: str, selection: Selection = metrics.EVERYTHING, now: float = NOW
) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for sample in metrics.samples(node, now, selection):
        if sample.metric.name == name:
            assert not isinstance(sample.value, Histogram)
            found[sample.labels] = sample.value
    return found


@pytest.fixture
def node() -> Node:
    return Node("host-a")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_has_the_labels_of_the_catalogue(row: Metric) -> None:
    assert " ".join(row.labels) == CATALOGUE[row.name]


def test_every_row_of_the_catalogue_is_there_once() -> None:
    assert sorted(row.name for row in ROWS) == sorted(CATALOGUE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_names_follow_the_rules_of_units_and_suffixes(row: Metric) -> None:
    """Counters end in `_total`, pseudo-metrics in `_info`; base units only; the unit is in the name."""
    assert row.name.endswith("_total") == (row.kind == "counter")
    assert row.name.endswith("_info") == (row.kind == "info")
    assert not row.name.endswith(("_count", "_sum", "_bucket"))
    assert not {"percent", "milliseconds", "ms", "megabytes", "milliwatts", "megahertz", "age"} & set(
        row.name.split("_")
    )
    assert row.name.removesuffix("_total").endswith(row.unit)
    words = set(row.name.removesuffix("_total").split("_")) & {"seconds", "bytes", "ratio"}
    assert not words or row.unit in words
    assert row.help.endswith(".")
    assert len(row.labels) <= 9  # and hostname


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_no_label_is_one_that_scraping_sets_or_that_holds_a_value(row: Metric) -> None:
    reserved = {"node", "instance", "job", "pod", "namespace", "container", "service", "endpoint", "hostname"}
    assert not reserved & set(row.labels)
    assert not {"step", "epoch", "loss", "path", "message", "time"} & set(row.labels)


def test_a_rank_that_said_nothing_yet_has_no_step_and_no_loss(node: Node) -> None:
    attach(node)
    assert read(node, "train_step") == {}
    assert read(node, "train_loss") == {}
    assert read(node, "rank_last_step_timestamp_seconds") == {}
    assert read(node, "rank_up") == {("exp-1-0a1b2c3d", "0"): 1.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_exported_as_it_is(node: Node, value: float) -> None:
    log(attach(node), [1], loss=value)
    [loss] = read(node, "train_loss").values()
    np.testing.assert_equal(loss, value)
    assert read(node, "train_nonfinite_total")["exp-1-0a1b2c3d", "0", "loss"] == 1


def test_a_number_is_found_by_its_role(node: Node) -> None:
    log(attach(node), [7], Train__Loss=1.5, eval_loss=2.5, gnorm=0.5, epoch=0.25, mfu=0.4)
    label = ("exp-1-0a1b2c3d", "0")
    assert read(node, "train_loss") == {label: 1.5}
    assert read(node, "train_val_loss") == {label: 2.5}
    assert read(node, "train_grad_norm") == {label: 0.5}
    assert read(node, "train_epoch") == {label: 0.25}
    assert read(node, "train_flops_utilization_ratio") == {label: 0.4}
    assert read(node, "train_step") == {label: 7}
    assert read(node, "train_value") == {}


def test_learning_rates_are_named_by_group_and_four_at_most(node: Node) -> None:
    log(attach(node), [1], lr=1e-3, **{f"lr__group{i}": 1e-4 for i in range(1, 7)})
    groups = [labels[2] for labels in read(node, "train_learning_rate")]
    assert groups == ["0", "1", "2", "3"]
    assert read(node, "train_value") == {}, "a learning rate is no value without a metric"


def test_the_users_own_scalars_are_a_label_and_never_a_metric_name(node: Node) -> None:
    log(attach(node), [1], loss=1.0, reward=0.5, accuracy=0.9)
    assert read(node, "train_value") == {
        ("exp-1-0a1b2c3d", "0", "reward"): 0.5,
        ("exp-1-0a1b2c3d", "0", "accuracy"): 0.9,
    }


def test_two_spellings_of_one_role_are_one_series(node: Node) -> None:
    log(attach(node), [1], accuracy=0.9, acc=0.8)
    assert read(node, "train_value") == {("exp-1-0a1b2c3d", "0", "accuracy"): 0.9}


def test_a_run_exports_32_names_of_its_own_at_most(node: Node) -> None:
    for rank in (0, 1):
        log(attach(node, rank), [1], **{f"v{i}": 1.0 for i in range(100)})
    names = {labels[2] for labels in read(node, "train_value")}
    assert names == {f"v{i}" for i in range(32)}
    assert len(read(node, "train_value")) == 64


def test_only_names_that_are_allowed_are_exported(node: Node) -> None:
    log(attach(node), [1], reward__mean=1.0, reward__std=2.0, debug=3.0)
    found = read(node, "train_value", Selection(names=("reward/*",)))
    assert {labels[2] for labels in found} == {"reward/mean", "reward/std"}


def test_what_watch_logs_by_layer_is_exported_only_where_it_is_asked_for(node: Node) -> None:
    log(attach(node), [1], reward=1.0, grad_norm__layer0=2.0, memory__allocated_bytes=3.0)
    assert {labels[2] for labels in read(node, "train_value")} == {"reward"}
    assert list(read(node, "train_gpu_memory_allocated_bytes").values()) == [3.0]
    asked = read(node, "train_value", Selection(names=("*", "grad_norm/*")))
    assert {labels[2] for labels in asked} == {"reward", "grad_norm/layer0"}


def test_phases_beyond_the_sixteenth_count_as_other(node: Node) -> None:
    log(attach(node), [1, 2], **{f"phase_p{i}": 1.0 for i in range(20)})
    found = {labels[2]: seconds for labels, seconds in read(node, "train_step_phase_seconds_total").items()}
    assert len(found) == 17
    assert found["p0"] == 2.0
    assert found["other"] == 8.0


def test_the_pace_of_a_rank_is_told_against_the_other_ranks(node: Node) -> None:
    for rank, seconds in ((0, 0.1), (1, 0.1), (2, 0.3)):
        log(attach(node, rank), range(60), seconds, loss=1.0)
    ratios = {labels[1]: ratio for labels, ratio in read(node, "rank_step_time_ratio").items()}
    assert ratios == {"0": pytest.approx(1.0), "1": pytest.approx(1.0), "2": pytest.approx(3.0)}


def test_a_rank_that_is_silent_is_down_and_its_values_stay_until_the_run_is_forgotten(node: Node) -> None:
    rank = attach(node)
    log(rank, [1], loss=1.0)
    rank.connected = False
    late = NOW + 31
    assert read(node, "rank_up", now=late) == {("exp-1-0a1b2c3d", "0"): 0.0}
    assert read(node, "train_loss", now=late)
    node.sweep(NOW + 601, 600.0)
    assert list(metrics.samples(node, NOW + 601)) == []


@pytest.mark.parametrize(
    ("goodbye", "reason"),
    [
        (Goodbye(9, NOW, End.FINISHED), "finished"),
        (Goodbye(9, NOW, End.FINISHED, exit_code=2), "failed"),
        (Goodbye(9, NOW, End.EXCEPTION), "exception"),
        (Goodbye(9, NOW, End.SIGNAL, signal=15), "signal"),
        (Goodbye(9, NOW, End.VANISHED), "vanished"),
    ],
)
def test_how_a_rank_ended_is_exported(node: Node, goodbye: Goodbye, reason: str) -> None:
    rank = attach(node, attempt=3)
    assert read(node, "rank_exit_info") == {}
    rank.apply(Batch(1, 1, (), (goodbye,)), NOW)
    assert read(node, "rank_exit_info") == {("exp-1-0a1b2c3d", "0", "3", reason): 1.0}
    assert read(node, "rank_up") == {("exp-1-0a1b2c3d", "0"): 0.0}


def test_what_the_sdk_says_of_itself_is_exported(node: Node) -> None:
    rank = attach(node)
    assert read(node, "sdk_journal_bytes") == {}
    rank.beat(
        Heartbeat(NOW, journal_bytes=512, dropped={"queue": 3}, log_seconds={"0.5": 2e-6}, overhead_ratio=0.001), NOW
    )
    label = ("exp-1-0a1b2c3d", "0")
    assert read(node, "sdk_journal_bytes") == {label: 512}
    assert read(node, "sdk_dropped_points_total") == {(*label, "queue"): 3}
    assert read(node, "sdk_log_seconds") == {(*label, "0.5"): 2e-6}
    assert read(node, "sdk_overhead_ratio") == {label: 0.001}


def test_the_newest_checkpoint_is_read_from_its_phase(node: Node) -> None:
    log(attach(node), [1, 2], phase_checkpoint=4.5)
    assert read(node, "train_checkpoint_duration_seconds") == {("exp-1-0a1b2c3d", "0"): 4.5}
    assert read(node, "train_last_checkpoint_timestamp_seconds") == {("exp-1-0a1b2c3d", "0"): NOW}


def test_stragglers_are_named_only_where_a_rule_judges(node: Node) -> None:
    for rank in (0, 1):
        attach(node, rank)
    assert read(node, "rank_straggler") == {}
    judged = [
        s for s in metrics.samples(node, NOW, stragglers={("exp-1-0a1b2c3d", 1)}) if s.metric.name == "rank_straggler"
    ]
    assert {sample.labels[1]: sample.value for sample in judged} == {"0": 0.0, "1": 1.0}


def gpus(node: Node, simulated: bool) -> None:
    node.observe(
        "gpu",
        [Sample(GPU_INFO, 1.0, (str(i), f"GPU-{i}{i}{i}{i}", "X", str(simulated).lower())) for i in range(4)],
        NOW,
    )


@pytest.mark.parametrize(
    ("simulated", "hello", "expected"),
    [
        (False, {"device_uuids": ("GPU-3333", "GPU-2222")}, ("2", "GPU-2222")),
        (False, {"device_uuids": ("GPU-3333",)}, ("3", "GPU-3333")),
        (False, {"device_uuids": ("GPU-elsewhere",)}, ("", "GPU-elsewhere")),
        (False, {"visible_devices": "2,3"}, ("3", "GPU-3333")),
        (False, {"visible_devices": "GPU-11"}, ("1", "GPU-1111")),
        (False, {}, ("", "")),
        (True, {}, ("1", "GPU-1111")),
    ],
)
def test_a_rank_is_joined_to_its_gpu(
    node: Node, simulated: bool, hello: dict[str, object], expected: tuple[str, str]
) -> None:
    """By uuid, by CUDA_VISIBLE_DEVICES, or, for simulated GPUs alone, by the local rank; otherwise not at all."""
    gpus(node, simulated)
    attach(node, 1, **hello)
    [labels] = read(node, "rank_info")
    assert labels[3:5] == expected


def test_facts_of_the_run_come_from_the_lowest_rank(node: Node) -> None:
    attach(
        node,
        0,
        environment={"torch": "2.13.0", "user": "kim"},
        config={"model": "gpt-mini", "max_steps": 500},
        job_id="42",
    )
    assert read(node, "run_info") == {("exp-1-0a1b2c3d", "run-7", "demo", "torch", "gpt-mini", "", "kim", "42"): 1.0}
    assert read(node, "run_target_steps") == {("exp-1-0a1b2c3d",): 500}
    assert read(node, "run_world_size") == {("exp-1-0a1b2c3d",): 2}
    assert read(node, "run_local_ranks") == {("exp-1-0a1b2c3d",): 1}


def test_a_sampler_that_sees_more_of_a_rank_speaks_for_it(node: Node) -> None:
    """The process sampler knows the container of a rank, while the rank lives."""
    for rank in (0, 1):
        attach(node, rank)
    [row] = [row for row in metrics.METRICS if row.name == "rank_info"]
    seen = Sample(row, 1.0, ("exp-1-0a1b2c3d", "0", "0", "", "", "4000", "box", "", ""))
    node.observe("process", [seen], NOW)
    assert [labels[1] for labels in read(node, "rank_info")] == ["1"]
