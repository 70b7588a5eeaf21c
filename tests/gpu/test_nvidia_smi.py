"""The GPU sampler beside nvidia-smi, on a machine with NVIDIA cards: both must tell the same.

Set RANKSCOPE_CAPTURE=1 to keep what NVML answered as a scenario under tests/captures/, by card, driver and date: the
tests of every machine then read it (tests/agent/samplers/test_recordings.py), and the demo can show it.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
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
    ("utilization.encoder", "gpu_encoder_utilization_ratio", "", 0.01, 0.0, 0.3),
    ("utilization.decoder", "gpu_decoder_utilization_ratio", "", 0.01, 0.0, 0.3),
    ("module.power.draw.instant", "gpu_module_power_watts", "", 1.0, 0.25, 30.0),
    ("clocks_event_reasons_counters.sw_power_cap", "gpu_throttle_seconds_total", "sw_power_cap", 1e-6, 0.02, 10.0),
    ("clocks_event_reasons_counters.sync_boost", "gpu_throttle_seconds_total", "sync_boost", 1e-6, 0.02, 10.0),
    ("clocks_event_reasons_counters.sw_thermal_slowdown", "gpu_throttle_seconds_total", "sw_thermal", 1e-6, 0.02, 10.0),
    ("clocks_event_reasons_counters.hw_thermal_slowdown", "gpu_throttle_seconds_total", "hw_thermal", 1e-6, 0.02, 10.0),
    (
        "clocks_event_reasons_counters.hw_power_brake_slowdown", "gpu_throttle_seconds_total", "hw_power_brake",
        1e-6, 0.02, 10.0,
    ),
    ("ecc.errors.corrected.volatile.total", "gpu_ecc_errors_total", "corrected", 1.0, 0.0, 0.0),
    ("ecc.errors.uncorrected.volatile.total", "gpu_ecc_errors_total", "uncorrected", 1.0, 0.0, 0.0),
    ("ecc.errors.corrected.aggregate.total", "gpu_ecc_errors_lifetime_total", "corrected", 1.0, 0.0, 0.0),
    ("ecc.errors.uncorrected.aggregate.total", "gpu_ecc_errors_lifetime_total", "uncorrected", 1.0, 0.0, 0.0),
    ("remapped_rows.correctable", "gpu_remapped_rows", "corrected", 1.0, 0.0, 0.0),
    ("remapped_rows.uncorrectable", "gpu_remapped_rows", "uncorrected", 1.0, 0.0, 0.0),
    ("remapped_rows.pending", "gpu_row_remap_pending", "", 1.0, 0.0, 0.0),
    ("remapped_rows.failure", "gpu_row_remap_failed", "", 1.0, 0.0, 0.0),
)  # fmt: skip
FACTS = {
    "name": "name", "pci.bus_id": "pci_bus_id", "serial": "serial", "vbios_version": "vbios",
    "mig.mode.current": "mig_mode",
}  # fmt: skip
NONE = ("", "N/A", "[N/A]", "[Not Supported]")
WORDS = {"No": "0", "Yes": "1"}


@pytest.fixture(scope="module")
def smi() -> str:
    path = shutil.which("nvidia-smi")
    if path is None:
        pytest.skip("no NVIDIA card here: nvidia-smi is not installed")
    if subprocess.run([path, "-L"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("nvidia-smi finds no card")
    return path


Said = list[dict[str, str]]
"""What nvidia-smi says of each card, by field; without those that this version does not know."""


def query(smi: str, fields: Iterable[str]) -> Said:
    done = subprocess.run(
        [smi, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return [dict(zip(fields, (v.strip() for v in line.split(",")), strict=True)) for line in done.stdout.splitlines()]


def is_known(smi: str, field: str) -> bool:
    asked = [smi, f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    return subprocess.run(asked, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.fixture(scope="module")
def both(smi: str) -> Iterator[tuple[list[Sample], Said]]:
    """What the sampler and nvidia-smi say at the same time, or nearly so."""
    wanted = ("uuid", "driver_version", "compute_cap", *FACTS, *(field for field, *_ in FIELDS))
    known = [field for field in wanted if is_known(smi, field)]
    sampler = Gpu(source="nvml", deadline=60.0)
    node = Node("here")
    list(sampler.sample(node))
    time.sleep(1.0)  # profiling figures are of the time between two looks
    yield list(sampler.sample(node)), query(smi, known)
    sampler.close()


@pytest.fixture
def samples(both: tuple[list[Sample], Said]) -> list[Sample]:
    return both[0]


@pytest.fixture
def said(both: tuple[list[Sample], Said]) -> Said:
    return both[1]


def by_card(samples: list[Sample]) -> dict[str, dict[tuple[str, str], float]]:
    """Return values by uuid, then by metric and label value."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for sample in samples:
        if sample.metric.labels[:2] == ("gpu", "uuid") and isinstance(sample.value, float) and len(sample.labels) <= 3:
            label = sample.labels[2] if len(sample.labels) == 3 else ""
            found.setdefault(sample.labels[1], {})[sample.metric.name, label] = sample.value
    return found


def test_every_value_agrees_with_nvidia_smi(samples: list[Sample], said: Said) -> None:
    ours = by_card(samples)
    apart: list[str] = []
    compared = 0
    for card in said:
        assert card["uuid"] in ours, "nvidia-smi sees a card that the sampler does not"
        for field, metric, label, factor, relative, absolute in FIELDS:
            text = WORDS.get(card.get(field, ""), card.get(field, ""))
            mine = ours[card["uuid"]].get((metric, label))
            if text.startswith("[") and text not in NONE:
                continue  # [Unknown Error], [GPU requires reset]: it may tell at another time
            if text in NONE:
                if mine is not None and field in card and field != "temperature.gpu.tlimit":
                    apart.append(f"{field}: nvidia-smi has none, {metric} is {mine}")
                continue
            theirs = float(text) * factor
            compared += 1
            if mine is None or not math.isclose(mine, theirs, rel_tol=relative, abs_tol=absolute):
                apart.append(f"{field}: nvidia-smi {theirs}, {metric} {mine}")
    assert apart == []
    assert compared >= 10


def test_facts_of_each_card_agree_with_nvidia_smi(samples: list[Sample], said: Said) -> None:
    infos = [
        dict(zip(each.metric.labels, each.labels, strict=True)) for each in samples if each.metric.name == "gpu_info"
    ]
    ours = {info["uuid"]: info for info in infos}
    for card in said:
        for field, label in FACTS.items():
            theirs, mine = card.get(field, ""), ours[card["uuid"]][label]
            if field == "pci.bus_id":
                theirs = theirs.lower().removeprefix("0000")  # 00000000:3B:00.0 is 0000:3b:00.0 to the kernel
            elif field == "mig.mode.current":
                theirs = theirs.lower()
            if field in card:
                assert mine == ("" if card[field] in NONE else theirs), field


def test_processes_agree_with_nvidia_smi(smi: str, samples: list[Sample], said: Said) -> None:
    """Those that compute, outside MIG mode."""
    cut = {card["uuid"] for card in said if card.get("mig.mode.current") == "Enabled"}
    asked = [smi, "--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    theirs = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 2]
    counts = {each.labels[1]: each.value for each in samples if each.metric.name == "gpu_processes"}
    for uuid in counts.keys() - cut:
        assert counts[uuid] == len({pid for gpu, pid, _ in theirs if gpu == uuid}), uuid


def test_profiling_figures_are_there_on_hopper_and_later(samples: list[Sample], said: Said) -> None:
    ours = by_card(samples)
    for card in said:
        if float(card.get("compute_cap", "0")) >= 9.0 and card.get("mig.mode.current") != "Enabled":
            there = {metric for metric, _ in ours[card["uuid"]]}
            assert {"gpu_sm_active_ratio", "gpu_tensor_active_ratio", "gpu_dram_active_ratio"} <= there


def test_what_was_read_can_be_kept(said: Said) -> None:
    """With RANKSCOPE_CAPTURE=1: without uuids, serial numbers and pids, which are nobody's business."""
    if os.environ.get("RANKSCOPE_CAPTURE") != "1":
        pytest.skip("RANKSCOPE_CAPTURE=1 keeps a capture")
    asked = [sys.executable, "-m", "tests.nvml.record"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=True, cwd=CAPTURES.parents[1])
    card = said[0]
    date = time.strftime("%Y-%m-%d")
    hidden = ("uuid", "serial")
    beside = [
        f"# {i} {field}: {text}" for i, each in enumerate(said) for field, text in each.items() if field not in hidden
    ]
    head = [
        f"# {card['name']}, driver {card['driver_version']}, {date}: recorded; nvidia-smi said a moment before:",
        *beside,
    ]
    name = f"{card['name']}-{card['driver_version']}-{date}".replace(" ", "-").replace("/", "-").lower()
    CAPTURES.mkdir(exist_ok=True)
    (CAPTURES / f"{name}.scenario").write_text("\n".join(head) + "\n" + done.stdout)
