"""Whatever the driver and the kernel answer: nothing crashes, and nothing false is exported."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankscope.agent.model import Sample
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._nvml.card import number
from rankscope.agent.samplers._nvml.mig_rows import MIG_ROWS
from rankscope.agent.samplers._nvml.rows import ROWS
from rankscope.agent.samplers._nvml.source import BlindError
from rankscope.agent.samplers.cpu import Cpu
from rankscope.agent.samplers.disk import Disk
from rankscope.agent.samplers.gpu import Gpu
from rankscope.agent.samplers.kernel import Kernel
from rankscope.agent.samplers.memory import Memory
from rankscope.agent.samplers.network import Network
from rankscope.agent.samplers.pressure import Pressure
from rankscope.agent.samplers.process import Process
from tests.agent.samplers.conftest import Root, attach
from tests.nvml import build

SENTINELS = (0x7FFFFFF0, 0x7FFFFFF1, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 16, 2**63 - 1, 2**64 - 1, -1)
ANSWERS = st.one_of(
    st.sampled_from([str(each) for each in SENTINELS]),
    st.integers(-(2**63), 2**64 - 1).map(str),
    st.integers(0, 200).map(str),
    st.sampled_from([1, 2, 3, 4, 6, 10, 13, 16, 17, 24, 27, 999]).map("error {}".format),
    st.sampled_from(["nan", "inf", "-inf", "140737488355328.0", "1e308", "", "x" * 90, "ÿ\N{SNOWMAN}", "\udcff\udc80"]),
)
CARDS = tuple(build.scenario(name).splitlines() for name in ("h100", "a100-mig", "gb200"))
LISTS = ("ComputeRunningProcesses", "GraphicsRunningProcesses", "ProcessUtilization")
COUNTS = st.sampled_from(["nvmlDeviceGetCount 0", "nvmlDeviceGetCount 7", "nvmlDeviceGetCount 4294967295", ""])
MORE = st.lists(  # of the last card or instance
    st.one_of(
        st.builds(
            "nvmlDeviceGet{} {}".format,
            st.sampled_from(LISTS),
            st.sampled_from(["grows", "claims 0", "claims 4294967295", "lies 1", "lies 4294967295", "error 999"]),
        ),
        st.builds("process {} {} {} {}".format, ANSWERS, st.sampled_from(["compute", "graphics"]), ANSWERS, ANSWERS),
        st.builds("nvmlDeviceGetMaxMigDeviceCount {}".format, ANSWERS),
        st.builds("mig\nnvmlDeviceGetUUID {}\nnvmlDeviceGetName {}".format, ANSWERS, ANSWERS),
        st.builds("nvmlDeviceGetHandleByIndex {}".format, ANSWERS),
    ),
    max_size=4,
)
BY_NAME = {row.name: row for row in (*ROWS, *MIG_ROWS)}


def true(sample: Sample) -> bool:
    """Say whether a value can be one of its metric."""
    value = sample.value
    if not isinstance(value, float) or not math.isfinite(value) or value < -100 or value >= 2**63:
        return False
    row = BY_NAME.get(sample.metric.name)
    return row.low <= value <= row.high if row is not None else value >= 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.sampled_from(CARDS),
    changed=st.dictionaries(st.integers(0, min(map(len, CARDS)) - 1), ANSWERS, min_size=1, max_size=60),
    count=COUNTS,
    more=MORE,
)
def test_a_driver_that_answers_anything(
    library: Path, lines: list[str], changed: dict[int, str], count: str, more: list[str]
) -> None:
    text = [
        f"{line.split(' ')[0]} {changed[i]}" if i in changed and " " in line else line for i, line in enumerate(lines)
    ]
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder, "s")
        scenario.write_bytes("\n".join([count, *text, *more]).encode(errors="surrogateescape"))
        os.environ["NVML_STANDIN"] = str(scenario)
        sampler = Gpu(source="nvml", library=str(library), deadline=60.0)
        why = ""
        try:
            for _ in range(2):
                false = [sample for sample in sampler.sample(Node("n")) if not true(sample)]
                assert false == []
        except BlindError as error:  # a driver that does not open
            why = str(error)
        finally:
            sampler.close()
            del os.environ["NVML_STANDIN"]
    assert not re.search("holds NVML (ended|was ended|closed)", why), "it is said in its own words, and nothing broke"


@pytest.mark.parametrize("value", [*SENTINELS, None, "61", float("nan"), 140737488355328.0, b"61"])
def test_what_stands_for_no_value_is_none(value: object) -> None:
    found = number(value)
    assert found is None or math.isnan(found)


@given(st.floats(), st.sampled_from(ROWS))
def test_a_row_lets_through_only_what_can_be_true(value: float, row: object) -> None:
    assert row in ROWS
    for each in ROWS:
        if each is row:
            got = each.plausible(value)
            assert got is None or each.low <= got <= each.high


FILES = (
    "proc/stat",
    "proc/loadavg",
    "proc/meminfo",
    "proc/vmstat",
    "proc/net/dev",
    "proc/net/snmp",
    "proc/diskstats",
    "proc/self/mounts",
    "proc/pressure/cpu",
    "proc/pressure/memory",
    "proc/cpuinfo",
    "etc/os",
    "proc/sys/fs/file",
    "proc/sys/fs/file",
    "proc/100/stat",
    "proc/100/status",
    "proc/100/cgroup",
    "proc/100/limits",
    "proc/100/mountinfo",
    "proc/100/cmdline",
    "dev/kmsg",
    "sys/fs/cgroup/cgroup.controllers",
    "sys/fs/cgroup/j/memory.max",
    "sys/fs/cgroup/j/memory.stat",
    "sys/fs/cgroup/j/cpu.max",
)
WORDS = [
    "0",
    "-1",
    "99",
    "MemTotal:",
    "kB",
    "max",
    "cpu",
    "some",
    "total=7",
    "(python)",
    "0::/j",
    "Tcp:",
    "sda",
    "eth0:",
]
TEXTS = st.one_of(
    st.binary(max_size=80),
    st.lists(
        st.sampled_from([*WORDS, "\n", "\n", "NSpid:", "Cpus_allowed:", "ff", "/", "ext4", "rw"]), max_size=40
    ).map(lambda words: " ".join(words).encode()),
)


def host(root: str) -> Iterator[Sample]:
    node = Node("n")
    attach(node, 100)
    for sampler in (Cpu, Memory, Disk, Network, Pressure, Kernel, Process):
        made = sampler(root=root)
        yield from made.sample(node)
        made.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FILES), TEXTS, max_size=len(FILES)))
def test_a_kernel_that_writes_anything(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Root(Path(folder))
        root.process(100, group="/j")
        for name, data in files.items():
            path = root.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for sample in host(folder):
            assert isinstance(sample.value, float)
            assert math.isfinite(sample.value), sample
