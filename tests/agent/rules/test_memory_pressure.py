"""Memory and disks that fill up: each of the rules fires and stays silent."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rankscope.agent.model import Batch, Block, Column, End, Goodbye, Incomplete
from rankscope.agent.rules.disk_pressure import DiskPressure
from rankscope.agent.rules.gpu_memory_leak import GpuMemoryLeak
from rankscope.agent.rules.gpu_memory_pressure import GpuMemoryPressure
from rankscope.agent.rules.host_memory_pressure import HostMemoryPressure
from rankscope.agent.rules.rank_crashed import RankCrashed
from rankscope.agent.rules.rank_out_of_memory import RankOutOfMemory
from tests.agent.rules.machine import GPU, Key, Machine, findings

GIB = 2**30
USED: Key = ("gpu_memory_used_bytes", *GPU)
SIZE: Key = ("gpu_memory_size_bytes", *GPU)
HELD: Key = ("gpu_process_memory_bytes", *GPU, "exp-1", "0")


def pressure(machine: Machine) -> list[str]:
    return [f.summary for f in findings(GpuMemoryPressure().check(machine.node, machine.run, machine.now))]


def test_a_card_that_is_nearly_full_is_told_with_what_is_left() -> None:
    (text,) = pressure(Machine().live(30, lambda _: {USED: 79 * GIB, SIZE: 80 * GIB}))
    assert "99% of its memory" in text
    assert "1.0 GiB" in text


def test_what_the_driver_reserves_is_no_room_for_programs() -> None:
    values = {USED: 77 * GIB, SIZE: 80 * GIB, ("gpu_memory_reserved_bytes", *GPU): 1.5 * GIB}
    assert len(pressure(Machine().live(30, lambda _: values))) == 1
    assert pressure(Machine().live(30, lambda _: {USED: 77 * GIB, SIZE: 80 * GIB})) == []


def test_memory_that_grows_is_told_with_when_it_is_full() -> None:
    (text,) = pressure(Machine().live(320, lambda t: {USED: (40 + t / 10) * GIB, SIZE: 80 * GIB}, steps_per_second=1))
    assert "full in 81 s" in text or "full in 80 s" in text


def test_a_rank_that_was_started_again_fills_its_caches_anew() -> None:
    machine = Machine().live(320, lambda _: {USED: 40 * GIB, SIZE: 80 * GIB}, steps_per_second=1)
    machine.rank.attach(dataclasses.replace(machine.rank.info, attempt=1, session=2), machine.now)

    def fills(t: float) -> dict[Key, float]:
        return {USED: (5 + t / 5) * GIB, SIZE: 80 * GIB, HELD: (5 + t / 5) * GIB}

    machine.live(340, fills, steps_per_second=0.1, every=10)
    assert pressure(machine) == []
    assert isinstance(GpuMemoryLeak().check(machine.node, machine.run, machine.now), Incomplete)


def test_what_the_allocator_never_needed_is_no_use_of_memory() -> None:
    """Inputs of many shapes fill the card with pieces that torch gives back before it runs out."""
    machine = Machine().live(30, lambda _: {USED: 79 * GIB, SIZE: 80 * GIB}, steps_per_second=1)
    for reserved, expected in ((78.0, 0), (60.0, 1)):
        columns = (Column("memory/reserved_bytes"), Column("memory/peak_bytes"))
        figures = np.array([[reserved * GIB, 60.0 * GIB]])
        machine.rank.apply(
            Batch(0, 0, (Block(columns, np.array([99]), np.array([machine.now]), figures),)), machine.now
        )
        assert len(pressure(machine)) == expected


def test_a_cache_that_filled_and_stopped_does_not_fill_the_card() -> None:
    machine = Machine().live(320, lambda t: {USED: min(70, 10 + t / 3) * GIB, SIZE: 80 * GIB}, steps_per_second=1)
    assert pressure(machine) == []


def test_the_first_steps_fill_caches_and_forecast_nothing() -> None:
    machine = Machine().live(320, lambda t: {USED: (40 + t / 10) * GIB, SIZE: 80 * GIB})
    assert pressure(machine) == []


def test_a_rank_on_a_mig_instance_is_judged_by_the_instance() -> None:
    mig = ("mig_memory_used_bytes", "0", "GPU-0"), ("mig_memory_size_bytes", "0", "GPU-0")
    assert len(pressure(Machine().live(30, lambda _: {mig[0]: 9.9 * GIB, mig[1]: 10.0 * GIB}))) == 1


def test_pressure_is_not_judged_where_memory_is_not_known() -> None:
    machine = Machine().live(30, lambda _: {})
    assert isinstance(GpuMemoryPressure().check(machine.node, machine.run, machine.now), Incomplete)


def test_a_noisy_neighbour_is_named_as_a_cause() -> None:
    values = {USED: 79 * GIB, SIZE: 80 * GIB, ("gpu_process_memory_bytes", *GPU, "", ""): 30.0 * GIB}
    machine = Machine().live(30, lambda _: values)
    (finding,) = findings(GpuMemoryPressure().check(machine.node, machine.run, machine.now))
    assert finding.causes[0].cause == "others use this GPU too"
    assert "30.0 GiB" in finding.causes[0].evidence


def leaks(machine: Machine) -> list[str]:
    return [f.summary for f in findings(GpuMemoryLeak().check(machine.node, machine.run, machine.now))]


def test_memory_that_grows_without_end_is_a_leak() -> None:
    machine = Machine().live(950, lambda t: {HELD: (20 + t / 200) * GIB, SIZE: 80 * GIB}, steps_per_second=2)
    (text,) = leaks(machine)
    assert "4.2 GiB more" in text or "4.1 GiB more" in text or "4.5 GiB more" in text


@pytest.mark.parametrize(
    "held",
    [
        lambda t: 20.0,
        lambda t: min(30.0, 20 + t / 40),  # a cache that filled
        lambda t: 20 + t / 200 - (4 if 500 < t < 520 else 0),  # an evaluation gave memory back
        lambda t: 20 + t / 20_000,  # too little to matter
    ],
)
def test_what_is_no_leak(held: object) -> None:
    assert callable(held)
    machine = Machine().live(950, lambda t: {HELD: float(held(t)) * GIB, SIZE: 80 * GIB}, steps_per_second=2)
    assert leaks(machine) == []


def test_a_leak_takes_steps_to_be_known() -> None:
    machine = Machine().live(950, lambda t: {HELD: (20 + t / 200) * GIB})
    assert isinstance(GpuMemoryLeak().check(machine.node, machine.run, machine.now), Incomplete)


def out_of_memory(machine: Machine) -> list[tuple[str, str]]:
    found = findings(RankOutOfMemory().check(machine.node, machine.run, machine.now))
    return [(finding.labels["memory"], finding.causes[0].cause) for finding in found]


def bye(memory: dict[str, float] | None = None, end: End = End.EXCEPTION, exception: str = "") -> Goodbye:
    names = {"allocated": "allocated_bytes.all.current", "reserved": "reserved_bytes.all.current"}
    names |= {"free": "device_free_bytes", "total": "device_total_bytes"}
    return Goodbye(
        41, 9.0, end, 1, 0, exception, memory={names[name]: value * GIB for name, value in (memory or {}).items()}
    )


CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize(
    ("memory", "cause"),
    [
        ({"allocated": 50.0, "reserved": 74.0, "free": 1.0, "total": 80.0}, "the allocator's cache is fragmented"),
        ({"allocated": 40.0, "reserved": 41.0, "free": 1.0, "total": 80.0}, "others use this GPU too"),
        ({"allocated": 77.0, "reserved": 78.0, "free": 1.0, "total": 80.0}, "model, batch and activations need more"),
        ({}, "model, batch and activations need more"),
    ],
)
def test_a_full_gpu_is_explained_by_what_the_allocator_said(memory: dict[str, float], cause: str) -> None:
    machine = Machine().live(5, lambda _: {}).say(bye(memory, exception=CUDA))
    ((kind, found),) = out_of_memory(machine)
    assert kind == "gpu"
    assert found.startswith(cause)


@pytest.mark.parametrize(
    ("exception", "kinds"),
    [
        ("torch.AcceleratorError: CUDA error: out of memory", ["gpu"]),
        ("torch.distributed.DistBackendError: NCCL error: … Last error: Cuda failure 2 'out of memory'", ["gpu"]),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", ["gpu"]),
        ("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.", ["gpu"]),
        ("py4j.protocol.Py4JJavaError: java.lang.OutOfMemoryError: Java heap space", []),
        ("RuntimeError: MPS backend out of memory (MPS allocated: 9.1 GB)", ["gpu"]),
        ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.", []),
    ],
)
def test_only_what_names_the_gpus_memory_is_a_full_gpu(exception: str, kinds: list[str]) -> None:
    machine = Machine().live(5, lambda _: {}).say(bye(exception=exception))
    assert [kind for kind, _ in out_of_memory(machine)] == kinds
    crashes = findings(RankCrashed().check(machine.node, machine.run, machine.now + 60))
    assert len(crashes) == 1 - len(kinds), "one of the two rules tells of each end"


def killed(t: float) -> dict[Key, float]:
    key = ("exp-1", "0")
    return {("rank_oom_kill_timestamp_seconds", *key): 3.0, ("rank_oom_kill_resident_bytes", *key): 60.0 * GIB}


def test_the_kernels_word_makes_it_the_hosts_memory() -> None:
    machine = Machine().live(5, killed, sampler="process").say(bye(end=End.VANISHED))
    (finding,) = findings(RankOutOfMemory().check(machine.node, machine.run, machine.now))
    assert finding.labels == {"memory": "host"}
    assert "60.0 GiB" in finding.summary
    assert "the whole node's memory" in finding.causes[0].evidence
    assert finding.time == 3.0


@pytest.mark.parametrize(
    "end", [bye(end=End.VANISHED), Goodbye(41, 9.0, End.SIGNAL, 137, 9), bye(exception="ValueError: x")]
)
def test_a_sigkill_or_status_137_alone_is_no_proof(end: Goodbye) -> None:
    assert out_of_memory(Machine().live(5, lambda _: {}).say(end)) == []


def test_a_run_that_lost_a_worker_and_finished_is_silent() -> None:
    machine = Machine().live(5, killed, sampler="process").say(Goodbye(41, 9.0, End.FINISHED))
    assert out_of_memory(machine) == []


LEFT: Key = ("system_memory_available_bytes",)
TOTAL: Key = ("system_memory_size_bytes",)


def host(machine: Machine) -> list[tuple[str, str | None]]:
    found = findings(HostMemoryPressure().check(machine.node, None, machine.now))
    return [(finding.labels["memory"], finding.severity) for finding in found]


def test_little_memory_left_is_a_warning_and_next_to_none_critical() -> None:
    assert host(Machine().live(20, lambda _: {LEFT: 4.0 * GIB, TOTAL: 100.0 * GIB}, sampler="memory")) == [
        ("host", None)
    ]
    assert host(Machine().live(20, lambda _: {LEFT: 1.0 * GIB, TOTAL: 100.0 * GIB}, sampler="memory")) == [
        ("host", "critical")
    ]
    assert host(Machine().live(20, lambda _: {LEFT: 40.0 * GIB, TOTAL: 100.0 * GIB}, sampler="memory")) == []


def test_memory_that_is_used_up_is_told_in_time() -> None:
    def used(t: float) -> dict[Key, float]:
        return {LEFT: (60 - t / 10) * GIB, TOTAL: 100.0 * GIB}

    machine = Machine().live(320, used, steps_per_second=1, sampler="memory")
    (finding,) = findings(HostMemoryPressure().check(machine.node, None, machine.now))
    assert "none in 5 min" in finding.summary
    starting = Machine().live(320, used, sampler="memory")
    assert host(starting) == [], "a rank that makes no steps yet reads its model and data into memory"
    starting.live(100, lambda t: used(t + 320), sampler="memory")
    assert host(starting) == [("host", None)], "and may read more than there is"


def test_tasks_that_wait_for_memory() -> None:
    stall: Key = ("system_pressure_seconds_total", "memory", "full")
    values = {LEFT: 40.0 * GIB, TOTAL: 100.0 * GIB}
    assert host(Machine().live(90, lambda t: {**values, stall: 0.3 * t}, sampler="memory")) == [("host", None)]
    assert host(Machine().live(90, lambda t: {**values, stall: 0.01 * t}, sampler="memory")) == []


def test_a_rank_whose_control_group_waits_for_memory_on_a_machine_that_has_plenty() -> None:
    """As below `memory.high`, which kills nobody and holds everybody up."""
    values = {LEFT: 400.0 * GIB, TOTAL: 1000.0 * GIB}
    own: Key = ("rank_pressure_seconds_total", "exp-1", "3", "memory", "full")
    stall: Key = ("system_pressure_seconds_total", "memory", "full")
    machine = Machine().live(90, lambda t: {**values, stall: 0.01 * t, own: 0.4 * t}, sampler="memory")
    (finding,) = findings(HostMemoryPressure().check(machine.node, None, machine.now))
    assert (finding.labels["memory"], finding.rank) == ("limit", 3)
    assert "40% of the last minute" in finding.summary
    assert host(Machine().live(90, lambda t: {**values, stall: 0.0, own: 0.05 * t}, sampler="memory")) == []
    machine = Machine().live(90, lambda t: {**values, stall: 0.4 * t, own: 0.4 * t}, sampler="memory")
    assert host(machine) == [("host", None)], "where the whole machine waits it is no limit of the rank's"


def test_a_rank_at_its_own_limit_and_a_full_shm() -> None:
    values = {
        LEFT: 40.0 * GIB,
        TOTAL: 100.0 * GIB,
        ("rank_memory_limit_bytes", "exp-1", "3"): 10.0 * GIB,
        ("rank_memory_limit_used_bytes", "exp-1", "3"): 9.8 * GIB,
        ("system_shm_used_bytes",): 62.0 * 2**20,
        ("system_shm_size_bytes",): 64.0 * 2**20,
    }
    machine = Machine().live(20, lambda _: values, sampler="memory")
    found = findings(HostMemoryPressure().check(machine.node, None, machine.now))
    assert [(f.labels["memory"], f.rank) for f in found] == [("limit", 3), ("shm", None)]


def test_the_small_shm_of_a_container_is_its_ranks() -> None:
    values = {LEFT: 40.0 * GIB, TOTAL: 100.0 * GIB, ("system_shm_used_bytes",): 1.0, ("system_shm_size_bytes",): 9e9}
    own = {("rank_shm_used_bytes", "exp-1", "3"): 62.0 * 2**20, ("rank_shm_size_bytes", "exp-1", "3"): 64.0 * 2**20}
    machine = Machine().live(20, lambda _: {**values, **own}, sampler="memory")
    (finding,) = findings(HostMemoryPressure().check(machine.node, None, machine.now))
    assert finding.rank == 3
    assert finding.summary == "/dev/shm of rank 3 of exp-1: 97% of 64 MiB are used"


AVAIL: Key = ("system_filesystem_avail_bytes", "/data")
SPACE: Key = ("system_filesystem_size_bytes", "/data")


def disk(machine: Machine) -> list[tuple[str, str | None]]:
    found = findings(DiskPressure().check(machine.node, None, machine.now))
    return [(finding.labels["problem"], finding.severity) for finding in found]


@pytest.mark.parametrize(
    ("left", "size", "expected"),
    [
        (30e9, 1e12, [("space", None)]),
        (5e9, 1e12, [("space", "critical")]),
        (300e9, 1e12, []),
        (2e12, 100e12, []),  # 2 %, and plenty
    ],
)
def test_little_space_counts_by_share_and_by_size(left: float, size: float, expected: list[object]) -> None:
    assert disk(Machine().live(60, lambda _: {AVAIL: left, SPACE: size}, every=10, sampler="disk")) == expected


def test_a_disk_that_fills_is_told_in_time() -> None:
    machine = Machine().live(1900, lambda t: {AVAIL: 400e9 - 100e6 * t, SPACE: 1e12}, every=10, sampler="disk")
    (finding,) = findings(DiskPressure().check(machine.node, None, machine.now))
    assert finding.summary == "/data is full in 35 min"


def test_a_file_system_that_turned_read_only_is_critical_and_one_that_always_was_is_not() -> None:
    readonly: Key = ("system_filesystem_readonly", "/data")
    space = {AVAIL: 500e9, SPACE: 1e12}
    turned = Machine().live(100, lambda t: {**space, readonly: float(t > 50)}, every=10, sampler="disk")
    assert disk(turned) == [("readonly", "critical")]
    assert disk(Machine().live(100, lambda _: {**space, readonly: 1.0}, every=10, sampler="disk")) == []
    rule, machine = DiskPressure(), Machine().live(100, lambda _: {**space, readonly: 0.0}, every=10, sampler="disk")
    rule.check(machine.node, None, machine.now)
    machine.live(12000, lambda _: {**space, readonly: 1.0}, every=10, sampler="disk")
    assert len(findings(rule.check(machine.node, None, machine.now))) == 1, "until it can be written again"


def test_a_file_system_that_was_always_read_only_may_be_full() -> None:
    """As the image of a data set is, or a volume that many nodes read."""
    values = {AVAIL: 0.0, SPACE: 1e12, ("system_filesystem_readonly", "/data"): 1.0}
    assert disk(Machine().live(100, lambda _: values, every=10, sampler="disk")) == []


def test_a_file_system_that_no_longer_answers_is_told_and_one_that_was_unmounted_is_not() -> None:
    """As NFS whose server is gone: whoever touches it hangs, and the next checkpoint will."""
    rule, machine, readonly = DiskPressure(), Machine(), ("system_filesystem_readonly", "/data")
    other: dict[Key, float] = {("system_filesystem_avail_bytes", "/"): 500e9}

    def problems(values: dict[Key, float]) -> list[str]:
        machine.live(60, lambda _: {**other, **values}, every=10, sampler="disk")
        return [found.labels["problem"] for found in findings(rule.check(machine.node, None, machine.now))]

    assert problems({readonly: 0.0}) == [], "it never did"
    assert problems({AVAIL: 500e9, SPACE: 1e12, readonly: 0.0}) == []
    assert problems({readonly: 0.0}) == ["hangs"]
    assert problems({AVAIL: 500e9, SPACE: 1e12, readonly: 0.0}) == []
    assert problems({}) == []


def test_few_inodes_and_a_saturated_disk() -> None:
    def values(t: float) -> dict[Key, float]:
        return {
            AVAIL: 500e9,
            SPACE: 1e12,
            ("system_filesystem_inodes_avail_ratio", "/data"): 0.01,
            ("system_disk_busy_seconds_total", "sda"): t,
            ("system_disk_operations_total", "sda", "read"): 5 * t,
            ("system_disk_operation_seconds_total", "sda", "read"): 4 * t,
            ("system_disk_operations_total", "sda", "write"): t,
            ("system_disk_operation_seconds_total", "sda", "write"): 0.01 * t,
        }

    assert disk(Machine().live(100, values, every=10, sampler="disk")) == [("inodes", None), ("reads", None)]
