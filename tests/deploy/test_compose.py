"""The image is really built and the compose stack really started, by a Docker engine of the test's own.

No registry is asked. A Debian made by debootstrap stands in for the base image, the same with Debian's prometheus and
prometheus-alertmanager in it for theirs; a rank that logs without torch stands in for the demo training; Grafana, which
Debian does not hold, is left out. Everything else is the file that users run, its ports apart.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from rankscope.agent.demo.stage import free_port

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # as every base image sets it
TRAINING = """
import math, time
from rankscope import sdk
sdk.init(project="demo", name="compose")
for step in range(100000):
    with sdk.phase("forward"):
        time.sleep(0.05)
    sdk.log(loss=math.nan if 100 <= step < 110 else 1.0 / (step + 1))
"""


@dataclass
class Engine:
    """A Docker engine with a root of its own."""

    socket: Path

    def run(self, *command: str | Path, check: bool = True, cwd: Path | None = None) -> str:
        environment = {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "0"}
        done = subprocess.run(
            [str(part) for part in command], env=environment, capture_output=True, text=True, cwd=cwd, check=False
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        return done.stdout

    def inspect(self, name: str) -> dict[str, Any]:
        [found] = json.loads(self.run("docker", "inspect", name))
        return dict(found)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., str]) -> Iterator[Engine]:
    for program in ("docker", "docker-compose", "debootstrap"):
        require(program, why="apt-get install docker.io docker-compose debootstrap")
    dockerd = require("dockerd", why="apt-get install docker.io")
    if os.geteuid() != 0:
        pytest.skip("a Docker engine of its own needs root")
    folder = tmp_path_factory.mktemp("docker")
    made = Engine(folder / "docker.sock")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                dockerd,
                "--storage-driver=vfs",
                f"--data-root={folder}/data",
                f"--exec-root={folder}/exec",
                f"--pidfile={folder}/pid",
                f"--host=unix://{made.socket}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _wait(lambda: "Server" in made.run("docker", "version", check=False), 60, (folder / "log").read_text)
        yield made
    finally:
        process.terminate()
        process.wait(60)
        for left in (folder / "exec" / "netns").glob("*"):  # dockerd leaves it mounted, and the folder cannot go
            subprocess.run(["umount", str(left)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def images(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make the stand-ins and build the agent's image from them; return the base image's name."""
    debian = tmp_path_factory.mktemp("debian")
    debian.chmod(0o755)  # it becomes the root folder, which is everybody's
    engine.run(
        "debootstrap", "--variant=minbase", "--include=python3-minimal,python3-venv,ca-certificates", "stable", debian
    )
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", debian / "etc/ssl/certs/ca-certificates.crt")
    (debian / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    install = "apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus prometheus-alertmanager"
    (debian / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (debian / "usr/sbin/policy-rc.d").chmod(0o755)
    engine.run("tar", "-C", debian, "-cf", debian.with_suffix(".tar"), ".")
    engine.run("docker", "import", "--change", PATH, debian.with_suffix(".tar"), "stand-in:base")
    engine.run("chroot", debian, "env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "sh", "-c", install)
    engine.run("tar", "-C", debian, "-cf", debian.with_suffix(".tar"), ".")
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    for name, program in (("prometheus", "prometheus"), ("alertmanager", "prometheus-alertmanager")):
        entry = f'ENTRYPOINT ["/usr/bin/{program}"]'
        engine.run(
            "docker", "import", "--change", PATH, "--change", entry, debian.with_suffix(".tar"), services[name]["image"]
        )
    shutil.rmtree(debian)
    debian.with_suffix(".tar").unlink()
    build = services["agent"]["build"]
    engine.run(
        *("docker", "build", "--network=host", "--build-arg", "BASE=stand-in:base", "--target", build["target"]),
        *("-f", ROOT / build["dockerfile"], "-t", services["agent"]["image"], ROOT),
    )
    return "stand-in:base"


@pytest.fixture(scope="module")
def stack(engine: Engine, images: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start the stack; return the addresses of its services."""
    folder = tmp_path_factory.mktemp("compose")
    (folder / "train.py").write_text(TRAINING)
    shipped = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    services = shipped["services"]
    del services["grafana"]
    addresses: dict[str, str] = {}
    for name, service in services.items():
        service.pop("build", None)
        service["volumes"] = [_absolute(volume) for volume in service.get("volumes", [])]
        for port in service.pop("ports", []):
            addresses[name] = f"127.0.0.1:{free_port()}"
            service["ports"] = [f"{addresses[name]}:{port.rsplit(':', 1)[1]}"]
    training = services["training"]
    training |= {"image": services["agent"]["image"], "entrypoint": ["python3", "/train.py"], "command": []}
    training["volumes"].append(f"{folder}/train.py:/train.py:ro")
    (folder / "compose.yaml").write_text(yaml.safe_dump(shipped))
    try:
        engine.run("docker-compose", "-p", "stack", "up", "-d", cwd=folder)
        yield addresses
    finally:
        engine.run("docker-compose", "-p", "stack", "down", "-v", "-t", "2", cwd=folder, check=False)


def test_the_image_is_small_and_runs_as_nobody_of_importance(engine: Engine, images: str) -> None:
    assert engine.run("docker", "run", "--rm", "--entrypoint", "id", "rankscope:0.1.0", "-u").strip() == "10001"
    own = engine.inspect("rankscope:0.1.0")["Size"] - engine.inspect(images)["Size"]
    assert own < 300_000_000, f"{own / 1e6:.0f} MB over the base image"


def test_the_agent_says_that_it_is_healthy(engine: Engine, stack: dict[str, str]) -> None:
    _wait(lambda: engine.inspect("stack_agent_1")["State"]["Health"]["Status"] == "healthy", 120)
    assert httpx.get(f"http://{stack['agent']}/-/ready").status_code == 200


def test_prometheus_sees_the_training_in_the_other_container(engine: Engine, stack: dict[str, str]) -> None:
    def asked(expression: str) -> list[Any]:
        answer = httpx.get(f"http://{stack['prometheus']}/api/v1/query", params={"query": expression}).json()
        result: list[Any] = answer["data"]["result"]
        return result

    _wait(lambda: bool(asked('rankscope_train_loss{hostname="demo"}')), 120)
    _wait(lambda: bool(asked("rankscope_rank_resident_memory_bytes > 1e6")), 60)  # of a process in another container
    _wait(lambda: bool(asked("rankscope:run_ranks_up:sum == 1")), 60)
    _wait(lambda: engine.inspect("stack_prometheus_1")["State"]["Health"]["Status"] == "healthy", 60)


def test_a_nan_is_notified_by_the_agent_and_by_alertmanager(engine: Engine, stack: dict[str, str]) -> None:
    def notified() -> str:
        return engine.run("docker", "logs", "stack_webhook_1")

    _wait(lambda: "/agent firing: LossNaN" in notified(), 120, notified)
    _wait(lambda: "/alertmanager firing: LossNaN" in notified(), 120, notified)
    _wait(lambda: "/alertmanager resolved: LossNaN" in notified(), 180, notified)


def _absolute(volume: str) -> str:
    source, rest = volume.split(":", 1)
    return f"{(ROOT / 'deploy' / source).resolve()}:{rest}" if source.startswith(".") else volume


def _wait(holds: Callable[[], bool], patience: float, told: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"not within {patience:g} s: {told()[-2000:]}"
        time.sleep(0.5)
