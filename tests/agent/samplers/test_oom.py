"""Ranks that really run out of memory: the kernel kills, and which rank, when and under whose limit is told."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankscope.agent.model import End, Goodbye
from rankscope.agent.rules.rank_out_of_memory import RankOutOfMemory
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers.process import Process
from tests.agent.samplers.conftest import attach, values
from tests.waiting import wait_for

LIMIT = 32 * 2**20
GROUPS = (("memory", "memory.limit_in_bytes"), (".", "memory.max"))


@pytest.fixture
def small() -> Iterator[Path]:
    """A control group of 32 MiB, of version 1 or 2."""
    if os.geteuid() != 0 or not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("only root may make control groups and read the kernel's log")
    group = next((made for base, limit in GROUPS if (made := _make(base, limit))), None)
    if group is None:
        pytest.skip("no memory can be limited here")
    yield group
    wait_for(lambda: _remove(group))  # what was in it may take a moment to end


def _make(base: str, limit: str) -> Path | None:
    group = Path("/sys/fs/cgroup", base, f"rankscope-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT))
    except OSError:
        _remove(group)
        return None
    return group


def _remove(group: Path) -> bool:
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def test_who_was_killed_for_memory_and_who_was_only_killed(node: Node, small: Path) -> None:
    """Rank 0 dies of SIGKILL, rank 1 loses a process to its control group's limit; both leave with status 137."""
    # `tail /dev/zero` takes all memory that there is
    script = f"echo $$ > {small}/cgroup.procs; echo in; sh -c 'read line; exec tail /dev/zero'; exit 137"
    pipe = subprocess.PIPE
    ranks = [subprocess.Popen(["sh", "-c", script], stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(2)]
    sampler = Process(interval=0.1)
    try:
        for number, rank in enumerate(ranks):
            attach(node, rank.pid, rank=number)
            assert rank.stdout is not None
            assert rank.stdout.readline() == b"in\n"
        wait_for(lambda: values(sampler.sample(node))["rank_workers", "exp-1", "1"] == 1)
        begun = time.time()
        ranks[0].kill()
        assert ranks[1].stdin is not None
        ranks[1].stdin.write(b"\n")
        ranks[1].stdin.flush()

        def killed() -> set[str]:
            node.observe("process", sampler.sample(node), time.time())
            return {labels[1] for labels in node.latest("rank_oom_kill_timestamp_seconds")}

        wait_for(lambda: bool(killed()))
        for number, rank in enumerate(ranks):
            status = rank.wait()
            known = node.runs["p", "exp-1"].ranks[number]
            known.goodbye = Goodbye(7, time.time(), End.SIGNAL if status < 0 else End.UNKNOWN, 137, max(0, -status))
        assert killed() == {"1"}
        (finding,) = RankOutOfMemory().check(node, node.runs["p", "exp-1"], time.time())  # type: ignore[misc]
        assert finding.rank == 1
        assert begun - 5 <= finding.time <= time.time() + 5
        assert 2**20 < (finding.value or 0.0) <= LIMIT
        assert "its control group's limit of 32 MiB" in finding.causes[0].evidence
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
        sampler.close()
