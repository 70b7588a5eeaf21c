"""GPUs as NVML tells of them: what is exported, and what never is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rankscope.agent.rules._cards import cards
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._nvml.source import SLOW
from rankscope.agent.samplers.gpu import Gpu
from tests.agent.samplers.conftest import Driver, Root, attach, declared, values
from tests.nvml import build
from tests.waiting import wait_for

Make = Callable[..., Gpu]
MIB = 2**20


def test_an_h100_gives_what_the_catalogue_promises(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("h100"))
    sampler = gpu()
    list(sampler.sample(node))  # profiling figures need two looks
    samples = list(sampler.sample(node))
    assert declared(sampler.metrics, samples)
    found = values(samples)
    expected = {
        ("gpu_up", "0"): 1.0,
        ("gpu_utilization_ratio", "0"): 1.0,
        ("gpu_memory_copy_utilization_ratio", "0"): 0.11,
        ("gpu_sm_active_ratio", "0"): 0.8841,
        ("gpu_sm_occupancy_ratio", "0"): 0.3107,
        ("gpu_tensor_active_ratio", "0"): 0.4731,
        ("gpu_dram_active_ratio", "0"): 0.526,
        ("gpu_memory_used_bytes", "0"): 19818 * MIB,
        ("gpu_memory_size_bytes", "0"): 85520809984,
        ("gpu_power_watts", "0"): 629.45,
        ("gpu_power_limit_watts", "0"): 700,
        ("gpu_energy_joules_total", "0"): 184467440.737,
        ("gpu_temperature_celsius", "0", "gpu"): 59,
        ("gpu_temperature_celsius", "0", "memory"): 55,
        ("gpu_temperature_margin_celsius", "0"): 26,
        ("gpu_clock_hertz", "0", "sm"): 1.98e9,
        ("gpu_clock_max_hertz", "0", "memory"): 2.619e9,
        ("gpu_throttle_active", "0", "sw_power_cap"): 0,
        ("gpu_throttle_active", "0", "hw_thermal"): 0,
        ("gpu_throttle_seconds_total", "0", "hw_thermal"): 0,
        ("gpu_pcie_replays_total", "0"): 9,
        ("gpu_pcie_bytes_total", "0", "rx"): 91268055040,
        ("gpu_pcie_link_generation", "0"): 5,
        ("gpu_nvlink_bytes_total", "0", "tx"): 918274812 * 1024,
        ("gpu_nvlink_errors_total", "0", "crc_flit"): 0,
        ("gpu_nvlink_links_up", "0"): 18,
        ("gpu_ecc_errors_total", "0", "uncorrected"): 0,
        ("gpu_remapped_rows", "0", "corrected"): 0,
        ("gpu_recovery_action", "0"): 0,
        ("gpu_processes", "0"): 3,
        ("gpu_process_memory_bytes", "0", "", ""): (15690 + 2566 + 1542) * MIB,
        ("gpu_process_utilization_ratio", "0", "", ""): 0.99,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_facts_of_the_card_are_labels_of_an_info_metric(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("h100"))
    info = next(sample for sample in gpu().sample(node) if sample.metric.name == "gpu_info")
    assert dict(zip(info.metric.labels, info.labels, strict=True)) == {
        "gpu": "0",
        "uuid": "GPU-7a1f3c52-9d64-4be0-8f27-1c5e8a90d3b1",
        "name": "NVIDIA H100 80GB HBM3",
        "pci_bus_id": "0000:00:09.0",
        "minor": "0",
        "serial": "1653523012345",
        "vbios": "96.00.A5.00.01",
        "mig_mode": "disabled",
        "simulated": "false",
    }


@pytest.mark.parametrize(
    ("scenario", "absent"),
    [
        ("rtx4090", {"gpu_ecc_errors_total", "gpu_nvlink_links_up", "gpu_sm_active_ratio", "gpu_recovery_action"}),
        ("l4", {"gpu_fan_speed_ratio", "gpu_nvlink_links_up", "gpu_sm_active_ratio", "gpu_pcie_bytes_total"}),
        ("gb200", {"gpu_fan_speed_ratio", "gpu_temperature_slowdown_celsius", "gpu_pcie_throughput_bytes_per_second"}),
        ("a100-mig", {"gpu_utilization_ratio", "gpu_remapped_rows", "gpu_nvlink_links_up", "mig_sm_active_ratio"}),
    ],
)
def test_what_a_card_does_not_support_is_absent_and_not_zero(
    driver: Driver, gpu: Make, node: Node, scenario: str, absent: set[str]
) -> None:
    driver.load(build.scenario(scenario))
    sampler = gpu()
    for _ in range(2):
        names = {sample.metric.name for sample in sampler.sample(node)}
    assert not names & absent
    assert "gpu_power_watts" in names


def test_sentinels_and_absurd_values_never_get_out(driver: Driver, gpu: Make, node: Node) -> None:
    """A dying card answers with blanks, NaN, 255 % and errors; each costs its own value only."""
    driver.load(build.scenario("sentinels"))
    sampler = gpu()
    for _ in range(2):
        found = values(sampler.sample(node))
    gone = [
        ("gpu_utilization_ratio", "0"),
        ("gpu_memory_copy_utilization_ratio", "0"),
        ("gpu_memory_used_bytes", "0"),
        ("gpu_power_watts", "0"),
        ("gpu_energy_joules_total", "0"),
        ("gpu_temperature_celsius", "0", "memory"),
        ("gpu_clock_hertz", "0", "sm"),
        ("gpu_clock_max_hertz", "0", "memory"),
        ("gpu_nvlink_bytes_total", "0", "tx"),
        ("gpu_nvlink_bytes_total", "0", "rx"),
        ("gpu_throttle_seconds_total", "0", "sw_power_cap"),
        ("gpu_throttle_seconds_total", "0", "sw_thermal"),
        ("gpu_sm_active_ratio", "0"),
        ("gpu_sm_occupancy_ratio", "0"),
        ("gpu_tensor_active_ratio", "0"),
        ("gpu_process_memory_bytes", "0", "", ""),
        ("gpu_process_utilization_ratio", "0", "", ""),
    ]
    assert [key for key in gone if key in found] == []
    assert found["gpu_temperature_celsius", "0", "gpu"] == 98
    assert found["gpu_throttle_seconds_total", "0", "hw_thermal"] == 41
    assert found["gpu_throttle_active", "0", "hw_thermal"] == found["gpu_throttle_active", "0", "hw_slowdown"] == 1
    assert found["gpu_ecc_errors_total", "0", "uncorrected"] == 3
    assert found["gpu_row_remap_failed", "0"] == found["gpu_row_remap_pending", "0"] == 1
    assert found["gpu_recovery_action", "0"] == 1


def test_a_failing_memory_cell_shows_in_a_card_that_works(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("broken"))
    found = values(gpu().sample(node))
    assert found["gpu_up", "0"] == 1
    assert found["gpu_ecc_errors_total", "0", "corrected"] == 353
    assert found["gpu_remapped_rows", "0", "corrected"] == found["gpu_row_remap_pending", "0"] == 1
    assert found["gpu_row_remap_failed", "0"] == found["gpu_remapped_rows", "0", "uncorrected"] == 0


def test_a_card_that_must_be_reset_says_so(driver: Driver, gpu: Make, node: Node) -> None:
    """It is up, for it answers; what it refuses is absent, not zero."""
    driver.load(build.scenario("reset"))
    found = values(gpu().sample(node))
    assert found["gpu_up", "0"] == found["gpu_recovery_action", "0"] == found["gpu_row_remap_pending", "0"] == 1
    assert found["gpu_remapped_rows", "0", "uncorrected"] == 5
    assert found["gpu_nvlink_links_up", "0"] == 0
    refused = {"gpu_power_watts", "gpu_clock_hertz", "gpu_encoder_utilization_ratio", "gpu_decoder_utilization_ratio"}
    assert not refused & {key[0] for key in found}


def test_links_that_do_not_answer_are_neither_down_nor_forgotten(driver: Driver, gpu: Make, node: Node) -> None:
    sampler = gpu()
    whole = build.scenario("h100")
    waits = build.answering(whole, "nvmlDeviceGetNvLinkState.3", "error 16")  # GPU requires reset
    counts: list[float | None] = []
    for text in (waits, whole, waits):
        driver.load(text)
        for _ in range(SLOW):
            found = values(sampler.sample(node))
        counts.append(found.get(("gpu_nvlink_links_up", "0")))
    assert counts == [None, 18, None]


@pytest.mark.parametrize(
    ("version", "first"),
    [("570.211.01", None), ("575.57.08", 251), ("580.65.06", 251), ("580.82.07", 269), ("590.48.01", 269)],
)
def test_throttled_time_is_read_by_the_numbers_of_the_driver(
    driver: Driver, gpu: Make, node: Node, version: str, first: int | None
) -> None:
    """What one driver calls throttled time is power smoothing in another."""
    counters = "".join(f"field.{number} {number}000000000\n" for number in (251, 252, 253, 269, 270, 271))
    driver.load(build.answering(build.scenario("l4"), "driver", version) + counters)
    found = values(gpu().sample(node))
    seconds = [
        found.get(("gpu_throttle_seconds_total", "0", reason))
        for reason in ("sw_thermal", "hw_thermal", "hw_power_brake")
    ]
    assert seconds == ([None] * 3 if first is None else [first, first + 1, first + 2])
    assert found["gpu_throttle_seconds_total", "0", "sw_power_cap"] == 1.25


def test_a_grace_blackwell_card_tells_its_own_power(driver: Driver, gpu: Make, node: Node) -> None:
    """And apart from it that of its module, of two GPUs and a CPU."""
    driver.load(build.scenario("gb200"))
    found = values(gpu().sample(node))
    assert found["gpu_power_watts", "0"] == 165.93
    assert found["gpu_module_power_watts", "0"] == 467.17
    assert found["gpu_power_limit_watts", "0"] == 1200
    assert found["gpu_throttle_seconds_total", "0", "sw_power_cap"] == pytest.approx(2.354613)


def test_mig_instances_have_their_own_memory_and_processes(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("a100-mig") + "process 4711 compute 8388608\n")
    samples = list(gpu().sample(node))
    by_uuid = {s.labels[1]: s.value for s in samples if s.metric.name == "mig_memory_used_bytes"}
    assert list(by_uuid.values()) == [12 * MIB] * 4
    profiles = [s.labels[3] for s in samples if s.metric.name == "mig_info"]
    assert profiles == ["1g.20gb"] * 4
    assert values(samples)["gpu_processes", "0"] == 1


def test_a_process_is_on_the_mig_instance_that_it_uses(driver: Driver, gpu: Make, node: Node) -> None:
    """The rank's pid is this test's own."""
    driver.load(build.scenario("a100-mig") + f"process {os.getpid()} compute 8388608\n")
    attach(node, os.getpid(), rank=2)
    samples = tuple(gpu().sample(node))
    used = [s.labels for s in samples if s.metric.name == "gpu_process_memory_bytes"]
    assert used == [("0", "MIG-2c3d4e5f-6071-5819-a2b3-c4d5e6f70819", "exp-1", "2")]
    node.observe("gpu", samples, time.time())
    rank = node.runs["p", "exp-1"].ranks[2]
    device = Devices(node).of(rank)
    assert device == ("0", "MIG-2c3d4e5f-6071-5819-a2b3-c4d5e6f70819")
    assert cards(node, time.time())[0].owners == ("rank 2 of exp-1",), "it is on the whole card as well"


def test_a_mig_instance_that_goes_takes_its_name_with_it(driver: Driver, gpu: Make, node: Node) -> None:
    """The driver uses handles of instances that are gone again for others."""
    head, *instances = build.scenario("a100-mig").split("mig\n")
    sized = [text.replace("used 12582912", f"used {i}000") for i, text in enumerate(instances)]
    driver.load("mig\n".join([head, *sized]))
    sampler = gpu()
    list(sampler.sample(node))
    driver.load("mig\n".join([head, *sized[1:]]))
    used = {s.labels[1][:12]: s.value for s in sampler.sample(node) if s.metric.name == "mig_memory_used_bytes"}
    assert used == {"MIG-8b7d6c5a": 1000, "MIG-1a2b3c4d": 2000, "MIG-2c3d4e5f": 3000}


def test_what_mig_hid_is_read_when_it_is_switched_off(driver: Driver, gpu: Make, node: Node) -> None:
    whole = build.scenario("h100")
    hidden = "".join(f"{line}\n" for line in whole.splitlines() if "UtilizationRates" not in line)
    driver.load(build.answering(hidden, "nvmlDeviceGetMigMode.0", "1"))
    sampler = gpu()
    for _ in range(2):
        found = values(sampler.sample(node))
    assert not {("gpu_utilization_ratio", "0"), ("gpu_sm_active_ratio", "0")} & found.keys()
    driver.load(whole)
    for _ in range(SLOW + 1):
        found = values(sampler.sample(node))
    assert found["gpu_utilization_ratio", "0"] == 1
    assert found["gpu_sm_active_ratio", "0"] == 0.8841


def test_mig_instances_are_profiled_one_by_one(driver: Driver, gpu: Make, node: Node) -> None:
    """On Hopper each instance has GPM figures of its own, and the whole card has none."""
    text = build.scenario("a100-mig").replace("A100-SXM4-80GB", "H100 80GB HBM3")
    driver.load(text.replace("nvmlDeviceGetGpuInstanceId 3\n", "nvmlDeviceGetGpuInstanceId 3\ngpm.2 63.5\n"))
    sampler = gpu()
    list(sampler.sample(node))
    active = [(s.labels[1][:12], s.value) for s in sampler.sample(node) if s.metric.name == "mig_sm_active_ratio"]
    assert active == [("MIG-3f1c8a9e", 0.635)]


def test_a_card_on_no_module_has_no_module_power(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("h100"))
    assert ("gpu_module_power_watts", "0") not in values(gpu().sample(node))


def test_pcie_traffic_is_measured_where_it_is_not_counted(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.answering(build.scenario("l4"), "nvmlDeviceGetPcieThroughput.0", "41000"))
    found = values(gpu().sample(node))
    assert found["gpu_pcie_throughput_bytes_per_second", "0", "tx"] == 41_000_000
    driver.load(build.scenario("h100"))
    assert not any(key[0].startswith("gpu_pcie_throughput") for key in values(gpu().sample(node)))


def test_memory_of_old_drivers_is_read_the_old_way(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("l4").replace("nvmlDeviceGetMemoryInfo.reserved 583008256\n", ""))
    found = values(gpu().sample(node))
    assert found["gpu_memory_used_bytes", "0"] == MIB
    assert ("gpu_memory_reserved_bytes", "0") not in found


def test_reasons_of_old_drivers_are_read_by_their_old_name(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("l4").replace("ClocksEventReasons 0x1", "ClocksThrottleReasons 0x60"))
    found = values(gpu().sample(node))
    reasons = {key[2] for key, value in found.items() if key[0] == "gpu_throttle_active" and value}
    assert reasons == {"hw_thermal", "sw_thermal"}


def test_an_xid_is_counted_with_its_code_and_time(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(build.scenario("h100"))
    sampler = gpu()
    assert ("gpu_xid_errors_total", "0", "79") not in values(sampler.sample(node))
    driver.load(build.scenario("h100") + "xid 79\nxid 79\nxid 94\n")
    found: dict[tuple[str, ...], float] = {}

    def arrived() -> bool:
        found.update(values(sampler.sample(node)))
        return ("gpu_xid_errors_total", "0", "94") in found

    wait_for(arrived)
    assert found["gpu_xid_errors_total", "0", "79"] == 2
    assert found["gpu_xid_errors_total", "0", "94"] == 1
    assert found["gpu_xid_last_timestamp_seconds", "0", "79"] > 1.7e9


@pytest.fixture
def child() -> Iterator[int]:
    """A process of ours with a child of its own; give the child's pid."""
    code = "import os,sys,time\npid=os.fork()\nif pid: print(pid, flush=True)\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    yield pid
    os.kill(pid, 9)
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_gpu_process_belongs_to_the_rank_that_it_descends_from(
    driver: Driver, gpu: Make, node: Node, child: int
) -> None:
    """A stranger on the same card is shown as such: the noisy neighbour."""
    driver.load(
        build.scenario("h100").replace("process 4711", f"process {child}") + "process 1 compute 1073741824 40\n"
    )
    with open(f"/proc/{child}/stat") as stat:
        parent = int(stat.read().rsplit(")", 1)[1].split()[1])
    attach(node, parent, rank=3)
    found = values(gpu().sample(node))
    assert found["gpu_process_memory_bytes", "0", "exp-1", "3"] == 15690 * MIB
    assert found["gpu_process_utilization_ratio", "0", "exp-1", "3"] == 0.99
    assert found["gpu_process_memory_bytes", "0", "", ""] == (1024 + 2566 + 1542) * MIB
    assert found["gpu_process_utilization_ratio", "0", "", ""] == 0.4


def test_a_driver_that_is_installed_later_is_found(
    driver: Driver, library: Path, tmp_path: Path, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.load(build.scenario("l4"))
    folder = tmp_path / "lib"
    sampler = Gpu(library=str(folder), deadline=60.0)
    assert list(sampler.sample(node)) == []
    folder.symlink_to(library)
    assert list(sampler.sample(node)) == [], "it is not searched for at every look"
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert values(sampler.sample(node))["gpu_up", "0"] == 1
    sampler.close()


def test_auto_shows_nothing_where_there_is_no_driver_and_never_simulates(node: Node) -> None:
    """A machine without libnvidia-ml.so.1 is a machine without GPUs."""
    sampler = Gpu(library="/nonexistent")
    assert list(sampler.sample(node)) == []


@pytest.mark.parametrize("scenario", ["h100", "a100-mig", "rtx4090", "l4", "gb200", "broken", "reset", "sentinels"])
def test_every_value_of_every_scenario_is_as_it_was(
    driver: Driver, gpu: Make, node: Node, golden: Callable[[str, str], None], scenario: str
) -> None:
    """Golden files; times and what the sampler counts itself are left out."""
    driver.load(build.scenario(scenario))
    sampler = gpu()
    list(sampler.sample(node))
    lines = [
        f"{sample.metric.name}{{{','.join(sample.labels)}}} {sample.value:.12g}"
        for sample in sampler.sample(node)
        if sample.metric.name != "gpu_state_seconds_total"
    ]
    golden(f"gpu-{scenario}.txt", "\n".join(sorted(lines)) + "\n")


XID = "4,99,{usec},-;NVRM: Xid (PCI:0000:00:09): {code}, pid=4711, name=python, GPU has fallen off the bus.\n"


def test_the_kernels_log_tells_of_errors_that_nvml_does_not(driver: Driver, gpu: Make, node: Node, root: Root) -> None:
    """And what both tell is counted once."""
    driver.load(build.scenario("h100"))
    root.write({"dev/kmsg": XID.format(usec=1, code=74)})
    sampler = gpu(root=str(root))
    assert not any(key[0] == "gpu_xid_errors_total" for key in values(sampler.sample(node))), "before the agent's time"
    with (root.path / "dev/kmsg").open("a") as log:
        log.write(XID.format(usec=int(time.monotonic() * 1e6), code=79))
    driver.load(build.scenario("h100") + "xid 79\n")
    time_of_both = time.monotonic() + 1.5
    while time.monotonic() < time_of_both:
        found = values(sampler.sample(node))
    assert found["gpu_xid_errors_total", "0", "79"] == 1
    assert ("gpu_xid_errors_total", "0", "74") not in found
