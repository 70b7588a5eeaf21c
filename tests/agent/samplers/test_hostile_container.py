"""What a container puts into its files is its own affair: the agent, as root, is neither led out of it nor held up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.workload import Workload, of_process
from tests.agent.samplers.conftest import Root

NAMESPACE = "run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture
def inside(root: Root) -> Path:
    """The root folder of a pod's process, laid out as Kubernetes does it."""
    root.process(100, group="/kubepods/pod0a1b2c3d-0000-4000-8000-00000000000a/" + "ab" * 32)
    root.write(
        {
            f"proc/100/root/{NAMESPACE}/..2026/namespace": "train\n",
            "proc/100/root/etc/hostname": "llama-0\n",
            "proc/100/root/var/x": "",
            "secret": "the host's",
        }
    )
    inside = root.path / "proc/100/root"
    (inside / "var/run").symlink_to("/run")
    (inside / NAMESPACE / "..data").symlink_to("..2026")
    (inside / NAMESPACE / "namespace").symlink_to("..data/namespace")
    return inside


def found(root: Root) -> Workload:
    return of_process(Files(str(root)), 100)


def test_links_are_followed_as_they_lead_within_the_container(root: Root, inside: Path) -> None:
    """`/var/run` is `/run` of the container, not of the host."""
    assert (found(root).namespace, found(root).pod) == ("train", "llama-0")


TRICKS: dict[str, Callable[[Path, Path], None]] = {
    "a link to a file of the host": lambda path, secret: path.symlink_to(secret),
    "a link that climbs": lambda path, secret: path.symlink_to("../" * 30 + str(secret).lstrip("/")),
    "a link to itself": lambda path, secret: path.symlink_to(path.name),
    "a pipe that nobody writes": lambda path, secret: os.mkfifo(path),
    "a folder": lambda path, secret: path.mkdir(),
    "a device without end": lambda path, secret: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_container_is_not_read_beyond_its_files(root: Root, inside: Path, trick: str) -> None:
    path = inside / "etc/hostname"
    path.unlink()
    TRICKS[trick](path, root.path / "secret")
    assert (found(root).namespace, found(root).pod) == ("train", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="a device node needs root")
def test_a_device_of_the_containers_own_is_not_read(root: Root, inside: Path) -> None:
    (inside / "etc/hostname").unlink()
    os.mknod(inside / "etc/hostname", 0o20644, os.makedev(1, 5))  # /dev/zero
    assert found(root).pod == ""


def test_a_name_is_no_book(root: Root, inside: Path) -> None:
    (inside / "etc/hostname").write_text("x" * 100_000)
    assert len(found(root).pod) <= 253
