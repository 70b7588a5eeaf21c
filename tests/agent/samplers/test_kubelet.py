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


def field(number: int, *values: bytes) -> bytes:
    return b"".join(bytes([number << 3 | 2, len(value)]) + value for value in values)


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


@pytest.fixture
def kubelet() -> Iterator[str]:
    """A kubelet below a root folder; a socket's path may not be long."""
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        folder = Path(root, "var/lib/kubelet/pod-resources")
        folder.mkdir(parents=True)
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(lambda *_: ANSWER)
        service = grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler})
        server = grpc.server(ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers((service,))
        server.add_insecure_port(f"unix:{folder}/kubelet.sock")
        server.start()
        yield root
        server.stop(None).wait()


def test_gpus_are_joined_with_the_pods_that_have_them(node: Node, kubelet: str) -> None:
    up = Metric("gpu_up", "gauge", "", ("gpu", "uuid"))
    node.observe("gpu", [Sample(up, 1.0, ("0", "GPU-a")), Sample(up, 1.0, ("1", "GPU-b"))], time.time())
    labels = [sample.labels for sample in Kubelet(root=kubelet).sample(node)]
    assert labels == [
        ("0", "GPU-a", "llama-0", "train", "main"),
        ("1", "GPU-b", "llama-0", "train", "main"),
        ("", "GPU-c", "web", "serve", "main"),
    ]


def test_a_node_without_a_kubelet_gives_nothing(node: Node, root: Root) -> None:
    assert list(Kubelet(root=str(root)).sample(node)) == []


def test_a_kubelet_that_does_not_answer_is_said(node: Node, root: Root) -> None:
    root.write({"var/lib/kubelet/pod-resources/kubelet.sock": ""})
    with pytest.raises(OSError, match="the kubelet does not tell"):
        list(Kubelet(root=str(root)).sample(node))
