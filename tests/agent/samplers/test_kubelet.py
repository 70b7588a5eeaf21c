"""Which pod a GPU was given to, as a kubelet tells."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankscope.agent.model import Metric, Sample
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.podresources import Given, parse
from rankscope.agent.samplers.kubelet import Kubelet
from tests.agent.samplers.conftest import Root


def varint(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def field(number: int, *values: bytes) -> bytes:
    return b"".join(bytes([number << 3 | 2]) + varint(len(value)) + value for value in values)


def pod(name: str, namespace: str, resource: str, *devices: str) -> bytes:
    """A pod of one container, `main`, with these devices; with fields that we do not read between them."""
    ids = field(2, *(device.encode() for device in devices))
    topology = field(3, b"\x0a\x02\x08\x01")
    container = field(1, b"main") + field(2, field(1, resource.encode()) + ids + topology) + b"\x18\x96\x01"
    return field(1, field(1, name.encode()) + field(2, namespace.encode()) + field(3, container))


ANSWER = pod("llama-0", "train", "nvidia.com/gpu", "GPU-a", "GPU-b") + pod("web", "serve", "nvidia.com/gpu", "GPU-c::2")


def test_devices_are_read_from_the_kubelets_answer() -> None:
    assert list(parse(ANSWER)) == [
        Given("llama-0", "train", "main", "nvidia.com/gpu", "GPU-a"),
        Given("llama-0", "train", "main", "nvidia.com/gpu", "GPU-b"),
        Given("web", "serve", "main", "nvidia.com/gpu", "GPU-c::2"),
    ]


@given(st.binary(max_size=60))
def test_an_answer_that_is_none_is_refused_or_empty(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all(isinstance(each, Given) for each in parse(data))


@contextlib.contextmanager
def kubelet(answer: bytes) -> Iterator[str]:
    """A kubelet that gives this answer, below a root folder; a socket's path may not be long."""
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        folder = Path(root, "var/lib/kubelet/pod-resources")
        folder.mkdir(parents=True)
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(lambda *_: answer)
        service = grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler})
        server = grpc.server(ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers((service,))
        server.add_insecure_port(f"unix:{folder}/kubelet.sock")
        server.start()
        yield root
        server.stop(None).wait()


def see(node: Node) -> None:
    """Let the GPU sampler have seen two GPUs, the second one in MIG mode."""
    gpu = Metric("gpu_info", "info", "", ("gpu", "uuid", "minor"))
    mig = Metric("mig_info", "info", "", ("gpu", "uuid", "gpu_uuid", "gpu_instance"))
    cards = [Sample(gpu, 1.0, ("0", "GPU-a", "4")), Sample(gpu, 1.0, ("1", "GPU-b", "5"))]
    instances = [Sample(mig, 1.0, ("1", f"MIG-{i}", "GPU-b", str(i + 3))) for i in range(2)]
    node.observe("gpu", [*cards, *instances], time.time())


def test_gpus_are_joined_with_the_pods_that_have_them(node: Node) -> None:
    see(node)
    with kubelet(ANSWER) as root:
        labels = [sample.labels for sample in Kubelet(root=root).sample(node)]
    assert labels == [
        ("0", "GPU-a", "llama-0", "train", "main"),
        ("1", "GPU-b", "llama-0", "train", "main"),
        ("", "GPU-c", "web", "serve", "main"),
    ]


@pytest.mark.parametrize(
    ("resource", "device", "gpu"),
    [
        ("nvidia.com/gpu", "0", ("0", "GPU-a")),
        ("nvidia.com/mig-1g.10gb", "1:1", ("1", "MIG-1")),
        ("nvidia.com/gpu", "nvidia4", ("0", "GPU-a")),
        ("nvidia.com/gpu", "nvidia4/vgpu2", ("0", "GPU-a")),
        ("nvidia.com/gpu", "nvidia5/gi3", ("1", "MIG-0")),
        ("nvidia.com/gpu", "nvidia9", None),
        ("rdma/hca", "0", None),
    ],
)
def test_device_plugins_name_gpus_in_several_ways(
    node: Node, resource: str, device: str, gpu: tuple[str, str] | None
) -> None:
    """By index where NVIDIA's is set to do so; Google's by the device file, with parts of it behind."""
    see(node)
    with kubelet(pod("p", "train", resource, device)) as root:
        given = [sample.labels for sample in Kubelet(root=root).sample(node)]
    assert given == ([(*gpu, "p", "train", "main")] if gpu is not None else [])


def test_the_answer_of_a_node_with_many_pods_is_taken(node: Node) -> None:
    """gRPC's own limit is 4 MiB."""
    see(node)
    with kubelet(pod("p", "n", "nvidia.com/gpu", *(f"x{i:0250d}" for i in range(20000)), "GPU-a")) as root:
        assert [sample.labels[1] for sample in Kubelet(root=root).sample(node)] == ["GPU-a"]


def test_a_node_without_a_kubelet_gives_nothing(node: Node, root: Root) -> None:
    assert list(Kubelet(root=str(root)).sample(node)) == []


def test_a_kubelet_that_does_not_answer_is_said(node: Node, root: Root) -> None:
    root.write({"var/lib/kubelet/pod-resources/kubelet.sock": ""})
    with pytest.raises(OSError, match="the kubelet does not tell"):
        list(Kubelet(root=str(root)).sample(node))
