"""The agent says what it costs, what it dropped, and which of its samplers are blind."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from rankscope.agent import telemetry
from rankscope.agent.exporters import prometheus
from rankscope.agent.model import Histogram, Metric, RankInfo, RankKey, Sample
from rankscope.agent.runs.clock import Clock, Reading
from rankscope.agent.runs.state import Node
from rankscope.agent.telemetry import Telemetry


def read(telemetry: Telemetry, name: str, node: Node | None = None) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for sample in telemetry.samples(node or Node("host-a")):
        assert not isinstance(sample.value, Histogram)
        if sample.metric.name == name:
            found[sample.labels] = sample.value
    return found


def test_reasons_are_there_before_anything_is_dropped() -> None:
    """A counter that is born with a value shows no increase."""
    telemetry = Telemetry()
    assert set(read(telemetry, "agent_dropped_total").values()) == {0}
    telemetry.dropped("record_error", 5)
    assert read(telemetry, "agent_dropped_total")[("record_error",)] == 5


def test_every_reason_that_the_agent_counts_is_among_them() -> None:
    """As the sources say it: `refuse("gap", …)`, `dropped("gap", …)`, `refused["gap"]`, and the page's own."""
    agent = Path(telemetry.__file__).parent
    sources = "".join(path.read_text() for path in agent.rglob("*.py"))
    counted = set(re.findall(r"""(?:\brefuse\(|\.dropped\(|refused\[)["'](\w+)["']""", sources))
    assert counted | set(prometheus.REASONS) == set(telemetry.REASONS)


def test_a_sampler_that_fails_is_down_and_its_last_success_stays() -> None:
    telemetry = Telemetry()
    telemetry.sampled("gpu", 0.5, None, 100.0)
    telemetry.sampled("gpu", 5.0, "no answer within 5 s", 200.0)
    assert read(telemetry, "sampler_up") == {("gpu",): 0.0}
    assert read(telemetry, "sampler_last_success_timestamp_seconds") == {("gpu",): 100.0}
    assert read(telemetry, "sampler_errors_total") == {("gpu",): 1}
    assert read(telemetry, "sampler_duration_seconds") == {("gpu",): 5.0}


def test_a_sampler_that_never_succeeded_has_no_last_success() -> None:
    telemetry = Telemetry()
    telemetry.sampled("gpu", 5.0, "no driver", 200.0)
    assert read(telemetry, "sampler_last_success_timestamp_seconds") == {}


def test_a_sampler_that_is_no_longer_run_vanishes() -> None:
    telemetry = Telemetry()
    telemetry.sampled("gpu", 0.5, None, 100.0)
    telemetry.forget("gpu")
    assert read(telemetry, "sampler_up") == {}


def test_what_ranks_were_refused_outlives_them() -> None:
    telemetry, node = Telemetry(), Node("host-a")
    rank = node.attach(RankInfo(RankKey("p", "r", 0), 1, "id"), 0.0)
    rank.refused["series_limit"] = 3
    assert read(telemetry, "agent_dropped_total", node)[("series_limit",)] == 3
    rank.refused["series_limit"] = 5
    assert read(telemetry, "agent_dropped_total", node)[("series_limit",)] == 5
    node.runs.clear()
    assert read(telemetry, "agent_dropped_total", node)[("series_limit",)] == 5


def test_its_own_cost_grows_with_work() -> None:
    telemetry = Telemetry()
    [before] = read(telemetry, "agent_cpu_seconds_total").values()
    deadline = time.monotonic() + 10
    while read(telemetry, "agent_cpu_seconds_total")[()] <= before:
        assert time.monotonic() < deadline
    assert read(telemetry, "agent_resident_memory_bytes")[()] > 1_000_000


def test_its_child_processes_are_part_of_its_cost() -> None:
    """NVML is held by one; what it used does not vanish with it."""
    code = "data = bytearray(200_000_000)\nprint(sum(range(20_000_000)), flush=True)\ninput()"
    telemetry = Telemetry()
    seconds, memory = (read(telemetry, f"agent_{name}")[()] for name in ("cpu_seconds_total", "resident_memory_bytes"))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        used = psutil.Process(child.pid).cpu_times()
        assert read(telemetry, "agent_cpu_seconds_total")[()] >= seconds + used.user
        assert read(telemetry, "agent_resident_memory_bytes")[()] >= memory + 190_000_000
    assert child.returncode == 1, "its input ended"
    assert read(telemetry, "agent_cpu_seconds_total")[()] >= seconds + used.user
    assert read(telemetry, "agent_resident_memory_bytes")[()] < memory + 100_000_000


def test_jumps_of_the_clock_are_counted_by_direction() -> None:
    readings = [Reading(1e9, 0.0), Reading(1e9, 3600.0), Reading(1e9, 0.0), Reading(1e9 + 7200, 0.0)]
    node = Node("host-a", clock=Clock(lambda: readings.pop(0)))
    assert read(Telemetry(), "agent_clock_jumps_total", node) == {("forward",): 0, ("back",): 0}
    for _ in range(3):
        node.clock.look()
    assert read(Telemetry(), "agent_clock_jumps_total", node) == {("forward",): 2, ("back",): 1}


def test_its_own_times_move_with_the_clock() -> None:
    telemetry = Telemetry(started=1000.0)
    telemetry.sampled("gpu", 0.5, None, 1100.0)
    telemetry.shift(-3600.0)
    assert read(telemetry, "agent_start_time_seconds") == {(): -2600.0}
    assert read(telemetry, "sampler_last_success_timestamp_seconds") == {("gpu",): -2500.0}


def test_versions_are_known() -> None:
    node = Node("host-a")
    driver = Metric("gpu_driver_info", "info", "Driver.", ("driver_version", "nvml_version", "cuda_version"))
    node.observe("gpu", [Sample(driver, 1.0, ("580.1", "12.580", "13.0"))], 1.0)
    [labels] = read(Telemetry(), "agent_build_info", node)
    assert labels[0] not in ("", "unknown")
    assert labels[2:] == ("12.580", "580.1", "13.0")
