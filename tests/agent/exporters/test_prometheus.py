"""A page of metrics is what Prometheus expects, whatever the samples are."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample as Line

from rankscope.agent import telemetry
from rankscope.agent.alerts import metrics as alert_metrics
from rankscope.agent.exporters.prometheus import Prometheus
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
from rankscope.agent.runs.state import Node

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
NOW = 1_790_000_000.0

TEMPERATURE = Metric("gpu_temperature_celsius", "gauge", "How hot.", ("gpu", "sensor"), "celsius")
ERRORS = Metric("sampler_errors_total", "counter", "Failed.", ("sampler",))
INFO = Metric("gpu_info", "info", "Facts.", ("gpu", "name"))
DURATION = Metric("train_step_duration_seconds", "histogram", "Wall time.", ("rank",), "seconds")


def page(samples: Iterable[Sample], accept: str = "", **settings: int) -> str:
    return Prometheus(hostname="host-a", **settings).render(samples, accept)[0].decode()  # type: ignore[arg-type]


def lines(text: str, accept: str = "") -> list[Line]:
    parse = parse_openmetrics if accept else parse_text
    return [line for family in parse(text) for line in family.samples]


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in lines(text)}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.1, 1e300, -0.0])
@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_any_number_survives(value: float, accept: str) -> None:
    text = page([Sample(TEMPERATURE, value, ("0", "gpu"))], accept)
    [sample] = lines(text, accept)
    np.testing.assert_equal(sample.value, value)


def test_every_series_carries_prefix_and_hostname() -> None:
    samples = [Sample(TEMPERATURE, 50.0, ("0", "gpu")), Sample(INFO, 1.0, ("0", "H100")), Sample(ERRORS, 3, ("gpu",))]
    assert set(values(page(samples))) == {
        ("rankscope_gpu_temperature_celsius", (("gpu", "0"), ("hostname", "host-a"), ("sensor", "gpu"))),
        ("rankscope_gpu_info", (("gpu", "0"), ("hostname", "host-a"), ("name", "H100"))),
        ("rankscope_sampler_errors_total", (("hostname", "host-a"), ("sampler", "gpu"))),
    }


def test_a_histogram_counts_up() -> None:
    found = values(page([Sample(DURATION, Histogram((0.1, 1.0), (2, 3, 4), 12.5), ("0",))]))
    counts = {dict(labels).get("le", name[-5:]): value for (name, labels), value in found.items()}
    assert counts == {"0.1": 2, "1.0": 5, "+Inf": 9, "count": 9, "s_sum": 12.5}


def test_openmetrics_names_units_and_ends() -> None:
    text = page([Sample(TEMPERATURE, 50.0, ("0", "gpu")), Sample(ERRORS, 3, ("gpu",))], OPENMETRICS)
    assert "# UNIT rankscope_gpu_temperature_celsius celsius" in text
    assert "# TYPE rankscope_sampler_errors counter" in text
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize("text", ['a"b\\c\nd', "Größe ✓", "half \ud83d character", "", "\x00\x07"])
@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_any_text_is_a_label_value(text: str, accept: str) -> None:
    body = page([Sample(ERRORS, 1, (text,))], accept)
    [sample] = lines(body, accept)
    assert sample.labels["sampler"] == text.encode("utf-8", "replace").decode()


def test_the_budget_refuses_and_counts_and_the_page_stays_whole() -> None:
    exporter = Prometheus(series_budget=10, hostname="host-a")
    samples = [Sample(TEMPERATURE, float(i), (str(i), "gpu")) for i in range(100)]
    body, _ = exporter.render([Sample(ERRORS, 1, ("gpu",)), *samples], OPENMETRICS)
    assert len(lines(body.decode(), OPENMETRICS)) == 10
    assert exporter.series == 10
    assert exporter.refused["series_budget"] == 91
    assert "rankscope_sampler_errors_total" in body.decode(), "what comes first is refused last"


def test_a_histogram_that_does_not_fit_is_refused_whole() -> None:
    exporter = Prometheus(series_budget=4, hostname="host-a")
    body, _ = exporter.render([Sample(DURATION, Histogram((0.1, 1.0), (2, 3, 4), 12.5), ("0",))])
    assert (body, exporter.refused["series_budget"]) == (b"", 5)


def test_what_comes_twice_is_shown_once_and_counted() -> None:
    exporter = Prometheus(hostname="host-a")
    body, _ = exporter.render([Sample(ERRORS, 1, ("gpu",)), Sample(ERRORS, 2, ("gpu",))])
    assert list(values(body.decode()).values()) == [1]
    assert exporter.refused["duplicate_series"] == 1


def test_a_sample_that_contradicts_its_metric_is_left_out_and_counted() -> None:
    exporter = Prometheus(hostname="host-a")
    wrong = [
        Sample(ERRORS, 1, ("a", "b")),
        Sample(DURATION, 3.0, ("0",)),
        Sample(ERRORS, Histogram((), (1,), 1.0), ("gpu",)),
        Sample(Metric("sampler_errors_total", "gauge", "Another.", ("sampler",)), 1, ("gpu",)),
    ]
    body, _ = exporter.render([*wrong, Sample(ERRORS, 7, ("gpu",))])
    assert list(values(body.decode()).values()) == [7]
    assert exporter.refused["bad_sample"] == 4


def test_two_sources_may_describe_one_metric_in_their_own_words() -> None:
    other = Metric("sampler_errors_total", "counter", "In other words.", ("sampler",), source="elsewhere")
    assert len(values(page([Sample(ERRORS, 1, ("a",)), Sample(other, 2, ("b",))]))) == 2


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="series_budget"):
        Prometheus(series_budget=0)


def whole_page(accept: str = "") -> str:
    """Return the page of a node on which a little of everything happened."""
    node = Node("host-a")
    columns = [Column(name) for name in ("loss", "val_loss", "lr", "grad_norm", "epoch", "reward", "mfu", "grad_scale")]
    columns += [Column(name, "phase") for name in ("data", "forward", "backward", "optimizer", "checkpoint")]
    for index in (0, 1):
        info = RankInfo(
            RankKey("demo", "exp-1-0a1b2c3d", index),
            index + 1,
            "run-7",
            "exp-1",
            local_rank=index,
            world_size=2,
            pid=4000 + index,
            started=NOW - 60,
            device_uuids=(f"GPU-{index}",),
            environment={"torch": "2.13.0", "user": "kim"},
            config={"max_steps": 100, "model": "gpt-mini"},
        )
        rank = node.attach(info, NOW)
        table = np.tile(np.linspace(0.5, 1.5, len(columns)), (5, 1))
        table[4, 0] = math.nan if index else math.inf
        block = Block(tuple(columns), np.arange(5), NOW - 4 + np.arange(5.0), table)
        rank.apply(Batch(1, 5, (block,)), NOW)
        rank.beat(
            Heartbeat(NOW, 4, "forward", 512, {"queue": 3}, {"0.5": 1.5e-6, "0.99": 9e-6}, overhead_ratio=0.001), NOW
        )
    node.runs["demo", "exp-1-0a1b2c3d"].ranks[1].apply(Batch(6, 6, (), (Goodbye(4, NOW, End.VANISHED),)), NOW)
    own = telemetry.Telemetry(started=NOW - 100)
    own.sampled("gpu", 0.012, None, NOW)
    own.sampled("cpu", 0.001, "no answer within 5 s", NOW)
    own.dropped("series_limit", 3)
    changing = ("agent_cpu_seconds_total", "agent_resident_memory_bytes", "agent_build_info")
    samples = [sample for sample in own.samples(node) if sample.metric.name not in changing]
    samples += metrics.samples(node, NOW, stragglers={("exp-1-0a1b2c3d", 1)})
    labels = {"rule_state": ("LossNaN", "exp-1-0a1b2c3d", "firing"), "alerts_total": ("LossNaN", "critical")}
    labels |= {
        "alert_active": ("LossNaN", "critical", "exp-1-0a1b2c3d", "1", ""),
        "notifications_total": ("hook", "ok"),
    }
    samples += [Sample(m, 1.0, labels.get(m.name, ("hook",))) for m in alert_metrics.METRICS]
    return page(samples, accept)


@pytest.mark.parametrize(("accept", "name"), [("", "exposition.txt"), (OPENMETRICS, "exposition.openmetrics.txt")])
def test_the_page_is_the_golden_one(golden: Callable[[str, str], None], accept: str, name: str) -> None:
    golden(name, whole_page(accept))


def test_promtool_has_nothing_to_say(require: Callable[..., str]) -> None:
    promtool = require("promtool", why="it judges names and help texts")
    checked = subprocess.run(
        [promtool, "check", "metrics"], check=False, input=whole_page(), capture_output=True, text=True
    )
    assert (checked.stdout + checked.stderr, checked.returncode) == ("", 0)
