"""The GPU sampler beside nvidia-smi, on a machine with NVIDIA cards: both must tell the same.

Set RANKSCOPE_CAPTURE=1 to keep what was read under tests/captures/, by card, driver and date.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankscope.agent.model import Sample
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers.gpu import Gpu

CAPTURES = Path(__file__).parents[1] / "captures"

# nvidia-smi's field, the sampler's metric and label value, the factor between them, and how far they may be apart:
# what moves by itself between two readings, relative and absolute.
FIELDS: tuple[tuple[str, str, str, float, float, float], ...] = (
    ("memory.total", "gpu_memory_size_bytes", "", 2**20, 0.0, 2**20),
    ("memory.used", "gpu_memory_used_bytes", "", 2**20, 0.02, 2 * 2**20),
    ("memory.reserved", "gpu_memory_reserved_bytes", "", 2**20, 0.0, 2**20),
    ("utilization.gpu", "gpu_utilization_ratio", "", 0.01, 0.0, 0.3),
    ("utilization.memory", "gpu_memory_copy_utilization_ratio", "", 0.01, 0.0, 0.3),
    ("power.draw", "gpu_power_watts", "", 1.0, 0.25, 15.0),
    ("enforced.power.limit", "gpu_power_limit_watts", "", 1.0, 0.0, 0.1),
    ("temperature.gpu", "gpu_temperature_celsius", "gpu", 1.0, 0.0, 3.0),
    ("temperature.memory", "gpu_temperature_celsius", "memory", 1.0, 0.0, 3.0),
    ("temperature.gpu.tlimit", "gpu_temperature_margin_celsius", "", 1.0, 0.0, 3.0),
    ("clocks.sm", "gpu_clock_hertz", "sm", 1e6, 0.5, 1e8),
    ("clocks.mem", "gpu_clock_hertz", "memory", 1e6, 0.5, 1e8),
    ("clocks.max.sm", "gpu_clock_max_hertz", "sm", 1e6, 0.0, 1.0),
    ("clocks.max.mem", "gpu_clock_max_hertz", "memory", 1e6, 0.0, 1.0),
    ("pcie.link.gen.max", "gpu_pcie_link_generation_max", "", 1.0, 0.0, 0.0),
    ("pcie.link.width.current", "gpu_pcie_link_width", "", 1.0, 0.0, 0.0),
    ("pcie.link.width.max", "gpu_pcie_link_width_max", "", 1.0, 0.0, 0.0),
    ("fan.speed", "gpu_fan_speed_ratio", "", 0.01, 0.0, 0.1),
    ("ecc.errors.corrected.volatile.total", "gpu_ecc_errors_total", "corrected", 1.0, 0.0, 0.0),
    ("ecc.errors.uncorrected.volatile.total", "gpu_ecc_errors_total", "uncorrected", 1.0, 0.0, 0.0),
)


@pytest.fixture(scope="module")
def smi() -> str:
    path = shutil.which("nvidia-smi")
    if path is None:
        pytest.skip("no NVIDIA card here: nvidia-smi is not installed")
    if subprocess.run([path, "-L"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("nvidia-smi finds no card")
    return path


def query(smi: str, *fields: str) -> list[dict[str, str]]:
    """Return what nvidia-smi says of each card; fields that this version does not know are left out."""
    known: list[str] = []
    for field in fields:
        asked = [smi, f"--query-gpu={field}", "--format=csv,noheader,nounits"]
        if subprocess.run(asked, capture_output=True, timeout=60, check=False).returncode == 0:
            known.append(field)
    done = subprocess.run(
        [smi, f"--query-gpu={','.join(known)}", "--format=csv,noheader,nounits"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return [dict(zip(known, (v.strip() for v in line.split(",")), strict=True)) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def samples(smi: str) -> Iterator[list[Sample]]:
    sampler = Gpu(source="nvml", deadline=60.0)
    node = Node("here")
    list(sampler.sample(node))
    time.sleep(1.0)  # profiling figures are of the time between two looks
    yield list(sampler.sample(node))
    sampler.close()


def by_card(samples: list[Sample]) -> dict[str, dict[tuple[str, str], float]]:
    """Return values by uuid, then by metric and label value."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for sample in samples:
        if sample.metric.labels[:2] == ("gpu", "uuid") and isinstance(sample.value, float) and len(sample.labels) <= 3:
            label = sample.labels[2] if len(sample.labels) == 3 else ""
            found.setdefault(sample.labels[1], {})[sample.metric.name, label] = sample.value
    return found


def test_every_value_agrees_with_nvidia_smi(smi: str, samples: list[Sample]) -> None:
    ours = by_card(samples)
    apart: list[str] = []
    compared = 0
    for card in query(smi, "uuid", *(field for field, *_ in FIELDS)):
        for field, metric, label, factor, relative, absolute in FIELDS:
            text = card.get(field, "")
            mine = ours[card["uuid"]].get((metric, label))
            if text.startswith("[") or text in ("", "N/A"):
                if mine is not None and field != "temperature.gpu.tlimit":
                    apart.append(f"{field}: nvidia-smi has none, {metric} is {mine}")
                continue
            theirs = float(text) * factor
            compared += 1
            if mine is None or not math.isclose(mine, theirs, rel_tol=relative, abs_tol=absolute):
                apart.append(f"{field}: nvidia-smi {theirs}, {metric} {mine}")
    assert apart == []
    assert compared >= 10


def test_profiling_figures_are_there_on_hopper_and_later(smi: str, samples: list[Sample]) -> None:
    ours = by_card(samples)
    for card in query(smi, "uuid", "compute_cap", "mig.mode.current"):
        if float(card["compute_cap"]) >= 9.0 and card.get("mig.mode.current") != "Enabled":
            there = {metric for metric, _ in ours[card["uuid"]]}
            assert {"gpu_sm_active_ratio", "gpu_tensor_active_ratio", "gpu_dram_active_ratio"} <= there


def test_what_was_read_can_be_kept(smi: str, samples: list[Sample]) -> None:
    """With RANKSCOPE_CAPTURE=1: without uuids and serial numbers, which are nobody's business."""
    if os.environ.get("RANKSCOPE_CAPTURE") != "1":
        pytest.skip("RANKSCOPE_CAPTURE=1 keeps a capture")
    card = query(smi, "name", "driver_version")[0]
    hidden = {"uuid", "serial", "gpu_uuid"}
    lines = [
        {
            "metric": sample.metric.name,
            "labels": {n: v for n, v in zip(sample.metric.labels, sample.labels, strict=True) if n not in hidden},
            "value": sample.value,
        }
        for sample in samples
    ]
    name = f"{card['name']}-{card['driver_version']}-{time.strftime('%Y-%m-%d')}".replace(" ", "-").lower()
    CAPTURES.mkdir(exist_ok=True)
    (CAPTURES / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
