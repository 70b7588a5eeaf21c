"""What a driver may answer and does not mean: each such answer costs its own value, and none becomes a value."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._nvml.card import number
from rankscope.agent.samplers._nvml.mig_rows import MIG_ROWS
from rankscope.agent.samplers._nvml.reads import Call, Field, Gpm, Links
from rankscope.agent.samplers._nvml.row import Row
from rankscope.agent.samplers._nvml.rows import ROWS
from rankscope.agent.samplers._nvml.source import SLOW, BlindError
from rankscope.agent.samplers.gpu import Gpu
from tests.agent.samplers.conftest import Driver, values
from tests.nvml import build
from tests.waiting import wait_for

Make = Callable[..., Gpu]
H100 = build.scenario("h100")
MIG = build.scenario("a100-mig")
# Of unsigned numbers of 32 and of 64 bits and of doubles; DCGM's among them, of which 9223372036854775794 is one.
NARROW = ("0xffffffff", "0x7ffffff0", "0x7ffffff2", "0x7fffffff", "-1")
WIDE = ("0xffffffffffffffff", "9223372036854775794", "0x7ffffffffffffff0", "0x7fffffffffffffff")
DOUBLE = (
    "nan", "inf", "140737488355328.0", "140737488355331.0", "9223372036854775794.0", "18446744073709551615.0",
    "4294967295.0",
)  # fmt: skip
_WORDS = "Name|UUID|PciInfo|Serial|Vbios|MigMode|GpuInstanceId|ComputeInstanceId"
_LONG = "MemoryInfo|TotalEnergy|TotalEcc|CurrentClocks"
_CALLS = {
    NARROW: rf"nvmlDeviceGet(?!{_WORDS}|MemoryInfo)\S+|field\S+|gpm\S+",
    WIDE: rf"nvmlDeviceGet(?:{_LONG})\S+|field\S+|gpm\S+",
    DOUBLE: r"field\S+|gpm\S+",
}
_PROCESS = re.compile(r"^process (\d+) compute .*$", re.MULTILINE)


def twice(sampler: Gpu, node: Node) -> dict[tuple[str, ...], float]:
    """Sample as often as profiling figures need."""
    list(sampler.sample(node))
    return values(sampler.sample(node))


@pytest.mark.parametrize(("sentinel", "calls"), [(each, calls) for kind, calls in _CALLS.items() for each in kind])
@pytest.mark.parametrize("scenario", ["h100", "a100-mig", "gb200"])
def test_a_sentinel_is_no_value_of_any_call(
    driver: Driver, gpu: Make, node: Node, scenario: str, sentinel: str, calls: str
) -> None:
    text, count = re.subn(rf"^({calls}) .*$", rf"\1 {sentinel}", build.scenario(scenario), flags=re.MULTILINE)
    assert count
    driver.load(text)
    found = twice(gpu(), node)
    asked = re.compile(calls)
    rows = [row for row in (*ROWS, *MIG_ROWS) if all(asked.match(f"{key}.0") for key in keys(row))]
    assert len(rows) > 5
    names = {row.name for row in rows}
    assert {key: value for key, value in found.items() if key[0] in names} == {}
    assert found["gpu_up", "0"] == 1


def keys(row: Row) -> list[str]:
    """Return what a scenario calls the reads of a row."""
    reads = [read for each in row.reads.values() for read in (each if isinstance(each, tuple) else (each,))]
    names = {Call: "", Field: "field.", Gpm: "gpm.", Links: "nvmlDeviceGetNvLinkState"}
    return [read.function if isinstance(read, Call) else names[type(read)] + "0" for read in reads]


@pytest.mark.parametrize("memory", ["0xffffffffffffffff", "9223372036854775794", "0xffffffff", "4611686018427387904"])
def test_a_process_whose_memory_is_not_told_has_none(driver: Driver, gpu: Make, node: Node, memory: str) -> None:
    """It counts as a process; 4 EiB are more than any card has."""
    driver.load(_PROCESS.sub(rf"process \1 compute {memory} 4294967294", H100))
    found = twice(gpu(), node)
    assert found["gpu_processes", "0"] == 3
    assert not {("gpu_process_memory_bytes", "0", "", ""), ("gpu_process_utilization_ratio", "0", "", "")} & set(found)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 140737488355331.0, float(2**64 - 1), float(2**63 - 14)])
def test_a_double_that_stands_for_none_is_none(value: float) -> None:
    assert number(value) is None
    assert number(47.31) == 47.31


def test_processes_that_cannot_be_listed_are_not_none(driver: Driver, gpu: Make, node: Node) -> None:
    """As in a container without the right to: absent, not zero."""
    driver.load(H100 + "nvmlDeviceGetComputeRunningProcesses error 4\n")
    found = twice(gpu(), node)
    assert not [key for key in found if key[0].startswith("gpu_process")]
    assert found["gpu_power_watts", "0"] == 629.45
    driver.load(MIG + "nvmlDeviceGetComputeRunningProcesses error 999\n")  # of the last instance
    samples = list(gpu().sample(node))
    assert [sample.value for sample in samples if sample.metric.name == "mig_processes"] == [0, 0, 0]
    assert "gpu_processes" not in {sample.metric.name for sample in samples}


@pytest.mark.parametrize("odd", ["grows", "claims 4294967295", "claims 1000", "lies 4294967295"])
def test_a_list_of_processes_whose_length_changes_costs_no_more_than_itself(
    driver: Driver, gpu: Make, node: Node, odd: str
) -> None:
    driver.load(
        H100 + f"nvmlDeviceGetComputeRunningProcesses {odd}\n"
        f"nvmlDeviceGetGraphicsRunningProcesses {odd}\nnvmlDeviceGetProcessUtilization {odd}\n"
    )
    found = twice(gpu(), node)
    assert found["gpu_power_watts", "0"] == 629.45
    assert found.get(("gpu_processes", "0")) in (None, 3)


@pytest.mark.parametrize("function", ["Name", "Serial", "VbiosVersion", "PciInfo.busId"])
def test_text_that_is_none_costs_that_fact(driver: Driver, gpu: Make, node: Node, function: str) -> None:
    driver.load_bytes(
        build.answering(H100, f"nvmlDeviceGet{function}", "\udcff\udcfe").encode(errors="surrogateescape")
    )
    assert twice(gpu(), node)["gpu_power_watts", "0"] == 629.45


def test_a_uuid_that_is_no_text_costs_its_card(driver: Driver, gpu: Make, node: Node) -> None:
    text = build.several("h100", 2)
    driver.load_bytes(build.answering(text, "nvmlDeviceGetUUID", "GPU-\udcff").encode(errors="surrogateescape"))
    found = twice(gpu(), node)
    assert [found["gpu_up", index] for index in "01"] == [0, 1]


def test_versions_that_are_no_text_are_left_out(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load_bytes(build.answering(H100, "driver", "\udcff").encode(errors="surrogateescape"))
    assert twice(gpu(), node)["gpu_up", "0"] == 1


@pytest.mark.parametrize("count", ["4294967295", "0x7ffffff0"])
def test_a_number_of_cards_that_cannot_be_is_said(driver: Driver, gpu: Make, node: Node, count: str) -> None:
    driver.load(f"nvmlDeviceGetCount {count}\n{H100}")
    with pytest.raises(BlindError, match="counts"):
        list(gpu().sample(node))


def test_cards_that_are_counted_and_are_not_there_are_not_down(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(f"nvmlDeviceGetCount 3\n{H100}")
    found = twice(gpu(), node)
    assert {key: value for key, value in found.items() if key[0] == "gpu_up"} == {("gpu_up", "0"): 1}


def test_an_error_without_a_code_is_none(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(H100)
    sampler = gpu()
    list(sampler.sample(node))
    driver.load(f"{H100}xid -1\nxid 0\nxid 999\n")
    found: dict[tuple[str, ...], float] = {}

    def arrived() -> bool:
        found.update(values(sampler.sample(node)))
        return ("gpu_xid_errors_total", "0", "999") in found

    wait_for(arrived)
    assert [key[2] for key in found if key[0] == "gpu_xid_errors_total"] == ["999"]


def test_a_number_of_instances_that_cannot_be_is_not_gone_through(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(MIG.replace("mig\n", "nvmlDeviceGetMaxMigDeviceCount 4294967295\nmig\n", 1))
    found = twice(gpu(deadline=10.0), node)
    assert len([key for key in found if key[0] == "mig_info"]) == 4


def test_a_card_that_this_user_may_not_see_is_not_down(driver: Driver, gpu: Make, node: Node) -> None:
    """As in a job or a container with some of the node's GPUs: NVML counts all, and opens its own."""
    hidden = "card\nnvmlDeviceGetHandleByIndex error 4\n"
    cards = build.several("h100", 3).split("card\n")
    driver.load(cards[0] + hidden + cards[1] + "card\n" + cards[2] + hidden + cards[3])
    found = twice(gpu(), node)
    assert {key: value for key, value in found.items() if key[0] == "gpu_up"} == {("gpu_up", "1"): 1}


def test_the_mode_of_a_card_that_does_not_tell_it_for_once_is_as_it_was(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(MIG)
    sampler = gpu()
    list(sampler.sample(node))
    driver.answer("nvmlDeviceGetMigMode.0", "error 999")
    for _ in range(SLOW):
        names = Counter(sample.metric.name for sample in sampler.sample(node))
        assert names["mig_memory_used_bytes"] == 4


def test_profiling_that_is_refused_once_is_asked_for_again(driver: Driver, gpu: Make, node: Node) -> None:
    driver.load(H100 + "nvmlGpmQueryDeviceSupport error 999\n")
    sampler = gpu()
    assert ("gpu_sm_active_ratio", "0") not in twice(sampler, node)
    driver.load(H100)
    assert twice(sampler, node)["gpu_sm_active_ratio", "0"] == 0.8841


def test_profiling_samples_are_given_back(driver: Driver, gpu: Make, node: Node) -> None:
    """Of instances that come and go: the stand-in has no more than 64."""
    head, *_ = MIG.replace("A100-SXM4-80GB", "H100 80GB HBM3").split("mig\n")
    sampler = gpu()
    for i in range(50):
        driver.load(
            f"{head}mig\nnvmlDeviceGetUUID MIG-{i}\nnvmlDeviceGetName NVIDIA H100 MIG 1g.10gb\n"
            f"nvmlDeviceGetGpuInstanceId {i}\nnvmlDeviceGetComputeInstanceId 0\ngpm.2 {i}\n"
        )
        found = twice(sampler, node)
        assert found["mig_sm_active_ratio", "0"] == i / 100


def test_what_is_unsupported_is_asked_again_only_of_another_driver(
    driver: Driver, gpu: Make, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    monkeypatch.setenv("NVML_STANDIN_ASKED", str(asked))
    driver.load(build.scenario("l4"))
    first = gpu()
    twice(first, node)
    known = {line.split(" ")[0] for line in build.scenario("l4").splitlines()}
    lists = re.compile(r"nvmlDeviceGet(Compute|Graphics)Running|nvmlDeviceGetFieldValues|nvmlDeviceGetProcessUtil")
    before = asked.stat().st_size
    for _ in range(SLOW + 1):
        list(first.sample(node))
    again = {key for key in asked.read_text()[before:].split("\n") if key and not lists.match(key)}
    assert again - known == {"nvmlDeviceGetCount"}
    before = asked.stat().st_size
    list(gpu().sample(node))
    assert "nvmlDeviceGetFanSpeed" in asked.read_text()[before:], "another process is another driver"
