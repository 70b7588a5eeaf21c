"""The processes of ranks: found in any namespace, counted with their children, told apart from strangers."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from rankscope.agent.model import End, Goodbye, Metric, Sample
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.kmsg import KernelLog, Kill
from rankscope.agent.samplers._linux.processes import parse_stat
from rankscope.agent.samplers._linux.workload import Workload, from_cgroup, of_process
from rankscope.agent.samplers._nvml.owners import Owners
from rankscope.agent.samplers.process import Process
from tests.agent.samplers.conftest import Root, attach, values
from tests.waiting import wait_for

HEX = "0123456789abcdef" * 4


def test_a_process_name_may_hold_anything(root: Root) -> None:
    stat = parse_stat("7 (a) b (c)) S 1 1 1 0 -1 0 0 0 0 0 100 50 30 20 20 0 4 0 900 0 25 0")
    assert (stat.pid, stat.name, stat.parent, stat.threads, stat.start) == (7, "a) b (c)", 1, 4, 900)
    assert (stat.cpu, stat.reaped) == pytest.approx((200 / os.sysconf("SC_CLK_TCK"), 50 / os.sysconf("SC_CLK_TCK")))


def test_a_rank_counts_with_all_its_descendants(node: Node, root: Root) -> None:
    root.process(100, cpu=(100, 20, 5, 5), resident=10, threads=9)
    root.process(101, parent=100, cpu=(40, 0, 0, 0), resident=5)
    root.process(102, parent=101, cpu=(10, 0, 0, 0), resident=1)
    root.process(103, parent=100, command="python\0-m\0rankscope.sdk._sender", resident=2)
    root.process(200, cpu=(999, 0, 0, 0), resident=999)
    attach(node, 100, pid_start_ticks=500)
    found = values(Process(root=str(root)).sample(node))
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    assert found["rank_cpu_seconds_total", "exp-1", "0"] == pytest.approx(180 / tick)
    assert found["rank_worker_cpu_seconds_total", "exp-1", "0"] == pytest.approx(60 / tick), "with those that ended"
    assert found["rank_resident_memory_bytes", "exp-1", "0"] == 18 * page
    assert found["rank_workers", "exp-1", "0"] == 2, "the SDK's own process is none"
    assert found["rank_threads", "exp-1", "0"] == 12
    assert found["rank_open_files", "exp-1", "0"] == 1
    assert found["rank_open_files_limit", "exp-1", "0"] == 1024
    assert found["rank_cpus", "exp-1", "0"] == 8


def test_cpu_time_never_goes_back(node: Node, root: Root) -> None:
    """The kernel forgets the time of a child that nobody waited for."""
    root.process(100, cpu=(100, 0, 0, 0))
    root.process(101, parent=100, cpu=(300, 0, 0, 0))
    attach(node, 100)
    sampler = Process(root=str(root))
    before = values(sampler.sample(node))["rank_cpu_seconds_total", "exp-1", "0"]
    os.rename(root.path / "proc/101", root.path / "proc/gone")
    assert values(sampler.sample(node))["rank_cpu_seconds_total", "exp-1", "0"] == before


def test_a_pid_that_is_used_again_is_not_the_rank(node: Node, root: Root) -> None:
    root.process(100, start=900)
    attach(node, 100, pid_start_ticks=500)
    assert list(Process(root=str(root)).sample(node)) == []


def test_a_rank_in_another_pid_namespace_is_found_by_its_own_pid_and_start(node: Node, root: Root) -> None:
    """In its container the rank is pid 7; on the host it is 4711, and pid 7 is something else."""
    root.process(7, name="kworker", start=1)
    root.process(4711, nspid="4711\t7", start=500, resident=3)
    root.process(4712, nspid="4712\t7", start=501)
    attach(node, 7, pid_start_ticks=500)
    info = next(s for s in Process(root=str(root)).sample(node) if s.metric.name == "rank_info")
    assert dict(zip(info.metric.labels, info.labels, strict=True))["pid"] == "4711"


def test_limits_hold_along_the_whole_way_of_groups(node: Node, root: Root) -> None:
    """A leaf without a limit may be in a group with one; file cache that can be dropped is no use of memory."""
    group = "/kubepods.slice/kubepods-pod1.slice/leaf.scope"
    root.process(100, group=group, cpus="ffffffff,ffffffff")
    base = "sys/fs/cgroup"
    root.write(
        {
            f"{base}/cgroup.controllers": "cpu memory",
            f"{base}{group}/memory.max": "max\n",
            f"{base}{group}/memory.current": "500\n",
            f"{base}{group}/cpu.max": "max 100000\n",
            f"{base}{group}/memory.events": "low 0\noom 2\noom_kill 1\n",
            f"{base}{group}/io.pressure": "some avg10=0 total=2000000\n",
            f"{base}{group}/cpu.pressure": "some avg10=0 total=3000000\n",
            f"{base}{group}/memory.pressure": "some avg10=0 total=0\n",
            f"{base}/kubepods.slice/kubepods-pod1.slice/memory.max": "1000\n",
            f"{base}/kubepods.slice/kubepods-pod1.slice/memory.current": "800\n",
            f"{base}/kubepods.slice/kubepods-pod1.slice/memory.stat": "anon 500\ninactive_file 150\nactive_file 50\n",
            f"{base}/kubepods.slice/kubepods-pod1.slice/cpu.max": "400000 100000\n",
            f"{base}/kubepods.slice/kubepods-pod1.slice/cpu.stat": "usage_usec 1\nthrottled_usec 2500000\n",
        }
    )
    attach(node, 100)
    found = values(Process(root=str(root)).sample(node))
    assert found["rank_cpus", "exp-1", "0"] == 4
    assert found["rank_memory_limit_bytes", "exp-1", "0"] == 1000
    assert found["rank_memory_limit_used_bytes", "exp-1", "0"] == 600
    assert found["rank_cpu_throttled_seconds_total", "exp-1", "0"] == 2.5
    assert found["rank_oom_kills_total", "exp-1", "0"] == 1
    assert found["rank_pressure_seconds_total", "exp-1", "0", "io", "some"] == 2
    assert found["rank_pressure_seconds_total", "exp-1", "0", "cpu", "some"] == 3


def test_a_rank_that_is_bound_to_some_cpus_has_used_up_what_is_used_of_those(node: Node, root: Root) -> None:
    """As Slurm and --cpuset-cpus do it: no quota anywhere, and the machine is idle."""
    stat = "cpu 0 0 0 0\ncpu0 {0} 0 {0} 500 60 0 0 0\ncpu1 {0} 0 {0} 500 60 0 0 0\ncpu2 1 0 1 9 0\ncpu10 1 0 1 9 0\n"
    root.process(100, cpus="00000003")
    attach(node, 100)
    sampler, key = Process(root=str(root)), ("rank_cpu_limit_used_seconds_total", "exp-1", "0")
    found: list[float | None] = []
    for ticks, cpus in ((100, "3"), (200, "3"), (200, "6"), (300, "6"), (400, "407")):
        root.write({"proc/stat": stat.format(ticks)})
        root.process(100, cpus=cpus)
        found.append(values(sampler.sample(node)).get(key))
    assert found == [0, 4, 4, 6, None], "bound to others it goes on, and ends where it is bound no more"
    root.process(100, cpus="ffffffff,ffffffff,ffffffff")
    found_now = values(Process(root=str(root)).sample(node))
    assert found_now["rank_cpus", "exp-1", "0"] == 4, "those that could be plugged in are none"
    assert key not in found_now


def test_of_nested_limits_the_tightest_counts(node: Node, root: Root) -> None:
    """What holds the rank up is the pod's 4 CPUs, which its neighbours use too, not the 8 of its own container."""
    root.process(100, group="/pod/leaf", cpus="ffff")
    root.write(
        {
            "sys/fs/cgroup/cgroup.controllers": "cpu",
            "sys/fs/cgroup/pod/leaf/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/pod/leaf/cpu.stat": "usage_usec 1000000\nthrottled_usec 0\n",
            "sys/fs/cgroup/pod/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/pod/cpu.stat": "usage_usec 9000000\nthrottled_usec 3000000\n",
        }
    )
    attach(node, 100)
    found = values(Process(root=str(root)).sample(node))
    assert found["rank_cpus", "exp-1", "0"] == 4
    assert found["rank_cpu_limit_used_seconds_total", "exp-1", "0"] == 9
    assert found["rank_cpu_throttled_seconds_total", "exp-1", "0"] == 3


def test_a_rank_bound_to_fewer_cpus_than_its_groups_limit_has_used_up_those(node: Node, root: Root) -> None:
    """Four ranks in one group of 16 CPUs, each bound to 4: what the others use is not this one's."""
    root.process(100, group="/job", cpus="000f")
    root.write(
        {
            "proc/stat": "cpu 0 0 0 0\n" + "".join(f"cpu{i} 700 0 0 500 0 0 0 0\n" for i in range(16)),
            "sys/fs/cgroup/cgroup.controllers": "cpu",
            "sys/fs/cgroup/job/cpu.max": "1600000 100000\n",
            "sys/fs/cgroup/job/cpu.stat": "usage_usec 112000000\n",
        }
    )
    attach(node, 100)
    found = values(Process(root=str(root)).sample(node))
    assert found["rank_cpus", "exp-1", "0"] == 4
    assert found["rank_cpu_limit_used_seconds_total", "exp-1", "0"] == 0, "of its own CPUs, from the first look on"


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount of one's own needs root")
def test_a_rank_with_a_small_shm_of_its_own_shows_it(node: Node) -> None:
    """As in a container: 64 MiB unless somebody asked for more."""
    script = "mount -t tmpfs -o size=1m none /dev/shm && head -c 900k /dev/zero > /dev/shm/batch && echo full && cat"
    pipe = subprocess.PIPE
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"full\n":
            pytest.skip("no mount of one's own can be made here")
        attach(node, process.pid)
        attach(node, os.getpid(), rank=1)
        found = values(Process().sample(node))
        process.communicate()
    assert found["rank_shm_size_bytes", "exp-1", "0"] == 1 << 20
    assert found["rank_shm_used_bytes", "exp-1", "0"] == 900 << 10
    assert ("rank_shm_size_bytes", "exp-1", "1") not in found, "it is the node's, and known as that"


def test_the_limits_of_a_container_are_seen_from_within_it(node: Node, root: Root) -> None:
    """Agent and rank share a container: its group is the root of what they see."""
    root.process(100, group="/")
    root.write(
        {
            "sys/fs/cgroup/cgroup.controllers": "cpu memory",
            "sys/fs/cgroup/memory.max": "1000\n",
            "sys/fs/cgroup/memory.current": "800\n",
            "sys/fs/cgroup/memory.stat": "anon 600\ninactive_file 20\nactive_file 150\nslab_reclaimable 30\n",
            "sys/fs/cgroup/memory.events": "oom_kill 3\n",
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/cpu.stat": "usage_usec 7000000\nthrottled_usec 1000000\n",
        }
    )
    attach(node, 100)
    found = values(Process(root=str(root)).sample(node))
    assert found["rank_memory_limit_bytes", "exp-1", "0"] == 1000
    assert found["rank_memory_limit_used_bytes", "exp-1", "0"] == 600
    assert found["rank_oom_kills_total", "exp-1", "0"] == 3
    assert found["rank_cpus", "exp-1", "0"] == 2
    assert found["rank_cpu_limit_used_seconds_total", "exp-1", "0"] == 7
    assert found["rank_cpu_throttled_seconds_total", "exp-1", "0"] == 1


@pytest.mark.parametrize(("kind", "limits"), [("cgroup.type", 1), ("cgroup.controllers", 0)])
def test_the_limits_of_another_container_are_seen_in_its_own_files(
    node: Node, root: Root, kind: str, limits: int
) -> None:
    """As from the agent's pod, whose namespace hides the path; of the machine's own group nothing is a rank's limit."""
    root.process(100, group="/../../pod7/leaf", cpus="ffff")
    own = "proc/100/root/sys/fs/cgroup"
    root.write(
        {
            "sys/fs/cgroup/cgroup.controllers": "cpu memory",
            "sys/fs/cgroup/memory.max": "2000000\n",
            "sys/fs/cgroup/memory.current": "1\n",
            "sys/fs/cgroup/memory.stat": "active_file 0\n",
            "sys/fs/cgroup/cpu.max": "100000 100000\n",
            f"{own}/{kind}": "\n",
            f"{own}/memory.max": "1000\n",
            f"{own}/memory.current": "800\n",
            f"{own}/memory.stat": "active_file 100\n",
            f"{own}/memory.events": "oom_kill 2\n",
            f"{own}/cpu.max": "200000 100000\n",
            f"{own}/cpu.stat": "usage_usec 7000000\nthrottled_usec 1000000\n",
            f"{own}/cpu.pressure": "some avg10=0 total=3000000\n",
        }
    )
    attach(node, 100)
    found = values(Process(root=str(root)).sample(node))
    names = {"memory_limit_bytes": 1000, "memory_limit_used_bytes": 700, "oom_kills_total": 2, "cpus": 2}
    names |= {"cpu_limit_used_seconds_total": 7, "cpu_throttled_seconds_total": 1}
    given = {name: found.get((f"rank_{name}", "exp-1", "0")) for name in names}
    assert given == (names if limits else {**dict.fromkeys(names), "cpus": 16})
    assert (("rank_pressure_seconds_total", "exp-1", "0", "cpu", "some") in found) == bool(limits)


def test_hosts_with_control_groups_of_version_1_give_no_limits(node: Node, root: Root) -> None:
    """They are absent, not wrong: neither 0 nor those of the machine."""
    root.process(100, cpus="ff")
    root.write(
        {
            "proc/100/cgroup": "5:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/job\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1000\n",
            "sys/fs/cgroup/unified/cgroup.controllers": "\n",
        }
    )
    attach(node, 100)
    found = values(Process(root=str(root)).sample(node))
    assert not [key for key in found if "limit" in key[0] and key[0] != "rank_open_files_limit"]
    assert found["rank_cpus", "exp-1", "0"] == 8
    assert found["rank_resident_memory_bytes", "exp-1", "0"] == 0


POD = "1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/docker/{HEX}", Workload(HEX[:12], HEX)),
        (f"/system.slice/docker-{HEX}.scope", Workload(HEX[:12], HEX)),
        (f"/machine.slice/libpod-{HEX}.scope/container", Workload(HEX[:12], HEX)),
        (
            f"/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{HEX}.scope",
            Workload(HEX[:12], HEX, pod_uid=POD),
        ),
        (f"/kubepods/besteffort/pod{POD}/{HEX}", Workload(HEX[:12], HEX, pod_uid=POD)),
        ("/slurm/uid_1000/job_4242/step_0/task_3", Workload(job="4242")),
        ("/system.slice/slurmstepd.scope/job_4242/step_0/user/task_3", Workload(job="4242")),
        ("/user.slice/user-1000.slice/session-3.scope", Workload()),
        ("/", Workload()),
    ],
)
def test_control_groups_tell_container_pod_and_job(path: str, expected: Workload) -> None:
    assert from_cgroup(f"0::{path}\n") == expected


def test_a_private_cgroup_namespace_is_seen_through_by_the_mounts(root: Root) -> None:
    mounts = f"1 2 8:1 /var/lib/docker/containers/{HEX}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"
    root.process(100, group="/", mounts=mounts)
    assert of_process(Files(str(root)), 100).container_id == HEX


def test_a_pod_is_named_by_its_own_files(node: Node, root: Root) -> None:
    root.process(100, group=f"/kubepods/pod{POD}/{HEX}")
    root.write(
        {
            "proc/100/root/var/run/secrets/kubernetes.io/serviceaccount/namespace": "training\n",
            "proc/100/root/etc/hostname": "llama-worker-0\n",
        }
    )
    attach(node, 100)
    info = next(s for s in Process(root=str(root)).sample(node) if s.metric.name == "rank_info")
    labels = dict(zip(info.metric.labels, info.labels, strict=True))
    assert labels["workload_pod"] == "llama-worker-0"
    assert labels["workload_namespace"] == "training"
    assert labels["workload_container"] == HEX[:12]


def test_a_rank_is_joined_with_the_gpu_that_runs_it(node: Node, root: Root) -> None:
    used = Metric("gpu_process_memory_bytes", "gauge", "", ("gpu", "uuid", "run", "rank"))
    node.observe("gpu", [Sample(used, 1.0, ("5", "GPU-5", "exp-1", "0"))], time.time())
    root.process(100)
    attach(node, 100)
    info = next(s for s in Process(root=str(root)).sample(node) if s.metric.name == "rank_info")
    labels = dict(zip(info.metric.labels, info.labels, strict=True))
    assert (labels["gpu"], labels["uuid"]) == ("5", "GPU-5")


KILL = (
    "3,1208,{usec},-;Memory cgroup out of memory: Killed process {pid} (python) total-vm:9000kB, anon-rss:4096kB, "
    "file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:100kB oom_score_adj:0\n"
)


def test_an_oom_kill_is_told_with_its_rank_and_time(node: Node, root: Root) -> None:
    """The killed process may be a worker, and is gone when the log is read."""
    root.process(100)
    root.process(101, parent=100)
    root.process(200)
    attach(node, 100, rank=0)
    attach(node, 200, rank=1)
    root.write({"dev/kmsg": "6,1,1000,-;an old line\n" + KILL.format(usec=1, pid=101)})
    sampler = Process(root=str(root))
    assert ("rank_oom_kill_timestamp_seconds", "exp-1", "0") not in values(sampler.sample(node)), (
        "before the agent's time"
    )
    with (root.path / "dev/kmsg").open("a") as log:
        log.write(KILL.format(usec=int(time.monotonic() * 1e6), pid=101))
    os.rename(root.path / "proc/101", root.path / "proc/gone")
    found = values(sampler.sample(node))
    assert found["rank_oom_kill_timestamp_seconds", "exp-1", "0"] == pytest.approx(time.time(), abs=5)
    assert found["rank_oom_kill_resident_bytes", "exp-1", "0"] == 4096 * 1024
    assert ("rank_oom_kill_timestamp_seconds", "exp-1", "1") not in found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Out of memory: Killed process 47 (py (x) y) total-vm:9kB, anon-rss:8kB, file-rss:0kB", ("py (x) y", 8192)),
        (
            "Out of memory (oom_kill_allocating_task): Killed process 47 (python) total-vm:9kB, anon-rss:8kB",
            ("python", 8192),
        ),
        ("Killed process 47 (python) total-vm:9kB, anon-rss:8kB, file-rss:0kB, shmem-rss:0kB", ("python", 8192)),
        ("Killed process 47 (python), UID 1000, total-vm:9kB, anon-rss:8kB, file-rss:0kB", ("python", 8192)),
        ("Out of memory: Kill process 47 (python) score 9 or sacrifice child", None),
        ("oom_reaper: reaped process 47 (python), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB", None),
        ("app: Killed process 47 (python)", None),
    ],
)
def test_kernels_write_of_a_kill_in_their_own_words(root: Root, line: str, expected: tuple[str, int] | None) -> None:
    root.write({"dev/kmsg": ""})
    log = KernelLog(str(root))
    root.write({"dev/kmsg": f"3,1208,99,-;{line}\n"})
    kills = [(each.name, each.resident) for each in log.read() if isinstance(each, Kill)]
    assert kills == ([expected] if expected else [])
    log.close()


def test_where_the_log_is_closed_the_group_of_the_vanished_rank_tells(node: Node, root: Root) -> None:
    root.process(100, group="/job")
    root.write({"sys/fs/cgroup/cgroup.controllers": "memory", "sys/fs/cgroup/job/memory.events": "oom_kill 1\n"})
    info = attach(node, 100)
    sampler = Process(root=str(root))
    list(sampler.sample(node))
    root.write({"sys/fs/cgroup/job/memory.events": "oom_kill 2\n"})
    os.rename(root.path / "proc/100", root.path / "proc/gone")
    rank = node.rank(info.key)
    assert rank is not None
    rank.goodbye = Goodbye(3, time.time(), End.VANISHED)
    assert ("rank_oom_kill_timestamp_seconds", "exp-1", "0") in values(sampler.sample(node))


def vanish(node: Node, root: Root, pid: int, rank: int, goodbye: Goodbye | None) -> None:
    os.rename(root.path / f"proc/{pid}", root.path / f"proc/gone-{pid}")
    node.runs["p", "exp-1"].ranks[rank].goodbye = goodbye


def killed(sampler: Process, node: Node) -> set[str]:
    return {key[2] for key in values(sampler.sample(node)) if key[0] == "rank_oom_kill_timestamp_seconds"}


def test_of_ranks_in_one_group_only_the_one_that_was_killed_is_said_to_be(node: Node, root: Root) -> None:
    """The launcher ends the others with SIGTERM; who ended how is not known at once."""
    for rank in range(4):
        root.process(100 + rank, group="/job")
        attach(node, 100 + rank, rank=rank)
    root.write({"sys/fs/cgroup/cgroup.controllers": "memory", "sys/fs/cgroup/job/memory.events": "oom_kill 1\n"})
    sampler = Process(root=str(root))
    assert killed(sampler, node) == set()
    root.write({"sys/fs/cgroup/job/memory.events": "oom_kill 2\n"})
    for rank in range(4):
        vanish(node, root, 100 + rank, rank, None)
    assert killed(sampler, node) == set(), "it was one of four"
    now = time.time()
    for rank in range(4):
        bye = Goodbye(3, now, End.VANISHED) if rank == 2 else Goodbye(3, now, End.SIGNAL, 143, 15)
        node.runs["p", "exp-1"].ranks[rank].goodbye = bye
    assert killed(sampler, node) == {"2"}


def test_a_kill_that_the_log_explains_is_nobody_elses(node: Node, root: Root) -> None:
    """The log names rank 0's worker; rank 1, in the same group, was killed by its user."""
    root.process(100, group="/job")
    root.process(101, parent=100, group="/job")
    root.process(200, group="/job")
    attach(node, 100, rank=0)
    attach(node, 200, rank=1)
    root.write(
        {
            "dev/kmsg": "",
            "sys/fs/cgroup/cgroup.controllers": "memory",
            "sys/fs/cgroup/job/memory.events": "oom_kill 0\n",
        }
    )
    sampler = Process(root=str(root))
    assert killed(sampler, node) == set()
    with (root.path / "dev/kmsg").open("a") as log:
        log.write(KILL.format(usec=int(time.monotonic() * 1e6), pid=101))
    root.write({"sys/fs/cgroup/job/memory.events": "oom_kill 1\n"})
    vanish(node, root, 200, 1, Goodbye(3, time.time(), End.VANISHED))
    assert killed(sampler, node) == {"0"}


def test_a_kill_that_is_counted_before_its_rank_is_seen_to_be_gone_is_its_own(node: Node, root: Root) -> None:
    root.process(100, group="/job")
    attach(node, 100)
    root.write({"sys/fs/cgroup/cgroup.controllers": "memory", "sys/fs/cgroup/job/memory.events": "oom_kill 0\n"})
    sampler = Process(root=str(root))
    killed(sampler, node)
    root.write({"sys/fs/cgroup/job/memory.events": "oom_kill 1\n"})
    assert killed(sampler, node) == set()
    vanish(node, root, 100, 0, Goodbye(3, time.time(), End.VANISHED))
    assert killed(sampler, node) == {"0"}


def test_pids_of_the_kernels_log_mean_nothing_in_a_pid_namespace(node: Node, root: Root) -> None:
    """Pid 100 of the host is not pid 100 of the agent's container."""
    root.process(100)
    attach(node, 100)
    root.write({"dev/kmsg": "", "proc/self/ns/x": ""})
    os.symlink("pid:[4026532207]", root.path / "proc/self/ns/pid")
    sampler = Process(root=str(root))
    killed(sampler, node)
    with (root.path / "dev/kmsg").open("a") as log:
        log.write(KILL.format(usec=int(time.monotonic() * 1e6), pid=100))
    assert killed(sampler, node) == set()


def test_real_processes_with_real_children(node: Node, tmp_path: Path) -> None:
    """Two workers that burn CPU under a parent that sleeps."""
    code = "import os,time\nfor _ in range(2):\n    if os.fork() == 0:\n        while True: pass\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        attach(node, process.pid)
        sampler = Process()

        def busy() -> bool:
            found = values(sampler.sample(node))
            workers = found.get(("rank_worker_cpu_seconds_total", "exp-1", "0"), 0.0)
            assert workers <= found["rank_cpu_seconds_total", "exp-1", "0"]
            return found["rank_workers", "exp-1", "0"] == 2 and workers > 0.3

        wait_for(busy)
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        sampler.close()


_EPOCHS = """
import os, signal, sys, time
for _ in sys.stdin:
    worker = os.fork()
    if not worker:
        while time.process_time() < 0.3:
            pass
        os.write(1, b"worked\\n")
        signal.pause()
    sys.stdin.readline()
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    print("ended", flush=True)
"""


def test_workers_that_each_epoch_starts_anew_go_on_counting(node: Node) -> None:
    """As a DataLoader without persistent workers has them: those of the first epoch are gone, what they used is not."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-u", "-c", _EPOCHS], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        attach(node, process.pid)
        sampler = Process()
        used: list[float] = []
        for line in ("worked", "ended", "worked", "ended"):
            process.stdin.write("on\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{line}\n"
            used.append(values(sampler.sample(node))["rank_worker_cpu_seconds_total", "exp-1", "0"])
        process.stdin.close()
        sampler.close()
    assert used == sorted(used)
    assert used[0] >= 0.25
    assert used[2] >= used[1] + 0.25


class _Engine(http.server.BaseHTTPRequestHandler):
    """Answers as Docker's engine does."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        known = self.path == f"/containers/{HEX}/json"
        labels = {"com.docker.compose.service": "trainer"}
        body = json.dumps({"Name": "/exp1-trainer-1", "Config": {"Image": "train:2.1", "Labels": labels}}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine(root: Root) -> Iterator[list[str]]:
    (root.path / "var/run").mkdir(parents=True)
    path = str(root.path / "var/run/docker.sock")
    _Engine.asked = []
    with socketserver.UnixStreamServer(path, _Engine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield _Engine.asked
        server.shutdown()
        thread.join()


def test_the_engine_names_the_container_its_image_and_its_service(node: Node, root: Root, engine: list[str]) -> None:
    root.process(100, group=f"/docker/{HEX}")
    attach(node, 100)
    sampler = Process(root=str(root))
    for _ in range(3):
        info = next(s for s in sampler.sample(node) if s.metric.name == "rank_container_info")
    labels = dict(zip(info.metric.labels, info.labels, strict=True))
    assert labels["workload_container"] == "exp1-trainer-1"
    assert labels["workload_image"] == "train:2.1"
    assert labels["workload_service"] == "trainer"
    assert len(engine) == 1, "asked once"


def test_an_engine_that_does_not_know_the_container_is_not_asked_all_the_time(
    node: Node, root: Root, engine: list[str]
) -> None:
    other = "f" * 64
    root.process(100, group=f"/docker/{other}")
    attach(node, 100)
    sampler = Process(root=str(root))
    for _ in range(3):
        info = next(s for s in sampler.sample(node) if s.metric.name == "rank_container_info")
    assert info.labels[2:4] == (other[:12], other)
    assert len(engine) == 1


def test_a_container_of_another_engine_does_not_hide_those_of_this_one(
    node: Node, root: Root, engine: list[str]
) -> None:
    root.process(100, group=f"/docker/{'f' * 64}")
    root.process(200, group=f"/docker/{HEX}")
    attach(node, 100, rank=0)
    attach(node, 200, rank=1)
    infos = [s.labels for s in Process(root=str(root)).sample(node) if s.metric.name == "rank_container_info"]
    assert [labels[2] for labels in infos] == ["f" * 12, "exp1-trainer-1"]
    assert len(engine) == 2


def test_a_gpu_process_of_a_container_is_its_ranks(node: Node, root: Root) -> None:
    """The driver tells host pids; the rank knows its own, and its worker on the GPU descends from it."""
    root.process(4711, nspid="4711\t7", start=500)
    root.process(4720, parent=4711, nspid="4720\t16")
    root.process(9000)
    attach(node, 7, pid_start_ticks=500)
    owners = Owners(str(root))
    owners.look(node, time.time())
    ranks = [owners.of(pid) for pid in (4711, 4720, 9000, 12345)]
    assert [rank.info.key.rank if rank else None for rank in ranks] == [0, 0, None, None]


def test_a_rank_may_be_the_first_process_of_the_container_that_it_shares_with_the_agent(node: Node, root: Root) -> None:
    root.process(1, parent=0, start=500)
    root.process(20, parent=1)
    attach(node, 1, pid_start_ticks=500)
    owners = Owners(str(root))
    owners.look(node, time.time())
    assert [owners.of(pid) is not None for pid in (1, 20, 30)] == [True, True, False]


def test_a_rank_out_of_the_agents_sight_is_known_by_its_own_pid(node: Node, root: Root) -> None:
    """As from a container: the agent does not see the rank's process; the driver tells the pid that the rank has."""
    root.process(1)
    attach(node, 7, pid_start_ticks=500)
    owners = Owners(str(root))
    owners.look(node, time.time())
    rank = owners.of(7)
    assert rank is not None
    assert rank.info.pid == 7
    assert owners.of(8) is None
