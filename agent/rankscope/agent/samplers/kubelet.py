"""Which pod a GPU was given to, whether it uses it or not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.podresources import ask

_SHARE = re.compile(r"::|/vgpu")  # what stands before the number of a share of a GPU
_SOCKET = "var/lib/kubelet/pod-resources/kubelet.sock"

POD_INFO = Metric(
    "gpu_pod_info",
    "info",
    "The pod that the kubelet gave a GPU or a MIG instance to.",
    ("gpu", "uuid", "workload_pod", "workload_namespace", "workload_container"),
    source="kubelet pod-resources v1 List",
)


@dataclass
class Kubelet:
    """Which pod each GPU was given to, from the kubelet's pod-resources socket; nothing where there is no kubelet."""

    interval: Seconds = 30.0
    root: str = "/"

    metrics: ClassVar[tuple[Metric, ...]] = (POD_INFO,)

    def sample(self, node: Node) -> Iterator[Sample]:
        """Yield the GPUs of pods. Raises OSError when there is a kubelet that does not answer."""
        socket = f"{self.root.rstrip('/')}/{_SOCKET}"
        if not os.path.exists(socket):
            return
        names = _names(node)
        seen: set[tuple[str, ...]] = set()
        for given in ask(socket):
            name = _SHARE.split(given.device, maxsplit=1)[0]
            if not name.startswith(("GPU-", "MIG-")) and not given.resource.startswith("nvidia.com/"):
                continue  # a network card's, say
            gpu = names.get(name, ("", name) if name.startswith(("GPU-", "MIG-")) else None)
            labels = (*gpu, given.pod, given.namespace, given.container) if gpu is not None else ()
            if labels and labels not in seen:
                seen.add(labels)
                yield Sample(POD_INFO, 1.0, labels)

    def close(self) -> None:
        """Nothing is held."""


def _names(node: Node) -> dict[str, tuple[str, str]]:
    """Return index and uuid of each GPU and MIG instance by the names that device plugins give it.

    NVIDIA's gives the uuid or, set to do so, the index (`0`, and `0:1` for the second MIG instance); Google's gives
    `nvidia0` by the minor number, and `nvidia0/gi3` for a MIG instance.
    """
    found: dict[str, tuple[str, str]] = {}
    minors: dict[str, str] = {}
    instances: dict[str, int] = {}
    for sample in node.samples.get("gpu", ()):
        if sample.metric.name not in ("gpu_info", "mig_info"):
            continue
        labels = dict(zip(sample.metric.labels, sample.labels, strict=True))
        gpu = labels["gpu"], labels["uuid"]
        found[gpu[1]] = gpu
        if sample.metric.name == "gpu_info":
            found[gpu[0]] = gpu
            minors[gpu[1]] = labels.get("minor", "")
            found[f"nvidia{minors[gpu[1]]}"] = gpu
        else:
            count = instances[gpu[0]] = instances.get(gpu[0], -1) + 1
            found[f"{gpu[0]}:{count}"] = gpu
            found[f"nvidia{minors.get(labels['gpu_uuid'], '')}/gi{labels['gpu_instance']}"] = gpu
    return found
