"""Which pod a GPU was given to, whether it uses it or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.podresources import ask

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
        indices = {uuid: gpu for gpu, uuid in (*node.latest("gpu_up"), *node.latest("mig_processes"))}
        seen: set[tuple[str, ...]] = set()
        for given in ask(socket):
            uuid = given.device.partition("::")[0]
            labels = (indices.get(uuid, ""), uuid, given.pod, given.namespace, given.container)
            if uuid.startswith(("GPU-", "MIG-")) and labels not in seen:
                seen.add(labels)
                yield Sample(POD_INFO, 1.0, labels)

    def close(self) -> None:
        """Nothing is held."""
