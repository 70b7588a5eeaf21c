"""A rank in a container of a real Docker engine: found by its own pid, named as the engine names it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.processes import inner_pid, read_stat
from rankscope.agent.samplers.process import Process
from tests.agent.samplers.conftest import Root, attach, values
from tests.waiting import wait_for

pytestmark = pytest.mark.deploy


@pytest.fixture
def docker(require: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Run commands of a Docker engine that is ours alone."""
    client, daemon = require("docker"), require("dockerd", why="a Docker engine to start")
    if os.geteuid() != 0:
        pytest.skip("only root may start a Docker engine")
    folder = tmp_path_factory.mktemp("docker")
    address = f"unix://{folder}/docker.sock"
    command = [daemon, "--host", address, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    command += ["--pidfile", f"{folder}/pid", "--storage-driver=vfs", "--bridge=none", "--iptables=false"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def run(*arguments: str, data: bytes = b"") -> str:
        done = subprocess.run([client, "-H", address, *arguments], input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        return subprocess.run([client, "-H", address, "version"], capture_output=True, check=False).returncode == 0

    try:
        wait_for(ready)
        yield run
    finally:
        process.terminate()
        process.wait(60)
        lines = Path("/proc/self/mounts").read_text().splitlines()
        for point in [line.split()[1] for line in reversed(lines)]:  # the engine leaves its network namespace
            if point.startswith(str(folder)):
                subprocess.run(["umount", "--lazy", point], check=True)


def image(*programs: str) -> bytes:
    """Return a root file system of a few programs and the libraries that they need."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        there: set[str] = set()
        for program in programs:
            libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
            for path in (program, *re.findall(r"(/\S+) \(", libraries)):
                if path not in there:
                    there.add(path)
                    tar.add(Path(path).resolve(), path.lstrip("/"))
    return out.getvalue()


def test_a_rank_in_a_container_is_found_and_named(docker: Callable[..., str], node: Node, root: Root) -> None:
    docker("import", "-", "train:2.1", data=image("/bin/sleep"))
    label = "com.docker.compose.service=trainer"
    options = ["--network=none", "--label", label, "--memory=64m", "--name", "exp1-trainer-1"]
    container = docker("run", "--detach", *options, "train:2.1", "/bin/sleep", "600")
    try:
        host_pid = int(docker("inspect", "--format", "{{.State.Pid}}", container))
        stat = read_stat(Files(), host_pid)
        assert stat is not None
        assert inner_pid(Files(), host_pid) == 1
        for name in ("proc", "sys"):
            (root.path / name).parent.mkdir(parents=True, exist_ok=True)
            (root.path / name).symlink_to(f"/{name}")
        (root.path / "var/run").mkdir(parents=True)
        socket = Path(docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").removeprefix("unix://"))
        (root.path / "var/run/docker.sock").symlink_to(socket)
        attach(node, 1, pid_start_ticks=stat.start, started=time.time())  # as the rank itself sees it
        samples = list(Process(root=str(root)).sample(node))
        by_name = {
            sample.metric.name: dict(zip(sample.metric.labels, sample.labels, strict=True)) for sample in samples
        }
        assert by_name["rank_info"]["pid"] == str(host_pid)
        assert by_name["rank_info"]["workload_container"] == "exp1-trainer-1"
        info = by_name["rank_container_info"]
        assert info["workload_container_id"] == container
        assert (info["workload_image"], info["workload_service"]) == ("train:2.1", "trainer")
        assert values(samples)["rank_resident_memory_bytes", "exp-1", "0"] > 0
    finally:
        docker("rm", "--force", container)


def test_a_rank_that_the_kernel_kills_for_memory_is_told_from_the_kernels_log(
    docker: Callable[..., str], node: Node
) -> None:
    """`tail /dev/zero` takes all memory that there is, here 32 MiB."""
    if not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("the kernel's log may not be read here")
    docker("import", "-", "greedy:1", data=image("/bin/sh", "/usr/bin/tail"))
    options = ["--interactive", "--network=none", "--memory=32m", "--memory-swap=32m", "--name", "greedy"]
    docker("run", "--detach", *options, "greedy:1", "/bin/sh", "-c", "read line; exec /usr/bin/tail /dev/zero")
    try:
        pid = int(docker("inspect", "--format", "{{.State.Pid}}", "greedy"))
        stat = read_stat(Files(), pid)
        assert stat is not None
        attach(node, pid, pid_start_ticks=stat.start)
        sampler = Process(interval=0.1)
        found = values(sampler.sample(node))
        Path(f"/proc/{pid}/fd/0").write_text("\n")

        def killed() -> bool:
            found.update(values(sampler.sample(node)))
            return ("rank_oom_kill_timestamp_seconds", "exp-1", "0") in found

        wait_for(killed)
        assert found["rank_oom_kill_timestamp_seconds", "exp-1", "0"] == pytest.approx(time.time(), abs=60)
        assert found["rank_oom_kill_limit_bytes", "exp-1", "0"] == 32 * 2**20
        assert 2**20 < found["rank_oom_kill_resident_bytes", "exp-1", "0"] < 64 * 2**20
        sampler.close()
    finally:
        docker("rm", "--force", "greedy")
