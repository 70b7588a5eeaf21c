"""Which GPU a rank runs on: the join of the training with the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rankscope.agent.model import Metric, Sample
from rankscope.agent.runs.state import Node, Rank

# The run state gives it for every rank, and the process sampler, which sees more, for those that live here.
RANK_INFO = Metric(
    "rank_info",
    "info",
    "Which GPU, process and container a rank runs on.",
    ("run", "rank", "local_rank", "gpu", "uuid", "pid", "workload_container", "workload_namespace", "workload_pod"),
    source="hello + /proc/PID/cgroup + NVML processes + CUDA_VISIBLE_DEVICES",
)


class Device(NamedTuple):
    """A GPU as series name it: its index as text, and its uuid; either is "" where unknown."""

    gpu: str
    uuid: str


class _Tables:
    """The GPUs that one set of samples tells of."""

    def __init__(self, samples: tuple[tuple[Sample, ...], ...]) -> None:
        self.samples = samples
        self.index: dict[str, str] = {}  # by uuid
        self.used: dict[tuple[str, str], Device] = {}  # by run and rank, from the GPUs' process tables
        self.simulated = False
        for each in samples:
            for sample in each:
                if sample.metric.name == "gpu_info":
                    labels = _labels(sample)
                    self.index[labels["uuid"]] = labels["gpu"]
                    self.simulated |= labels.get("simulated") == "true"
                elif sample.metric.name == "mig_info":
                    labels = _labels(sample)
                    self.index[labels["uuid"]] = labels["gpu"]
                elif sample.metric.name == "gpu_process_memory_bytes":
                    labels = _labels(sample)
                    self.used[labels["run"], labels["rank"]] = Device(labels["gpu"], labels["uuid"])

    def are_of(self, samples: tuple[tuple[Sample, ...], ...]) -> bool:
        return len(samples) == len(self.samples) and all(a is b for a, b in zip(samples, self.samples, strict=True))


class Devices:
    """The node's GPUs as they were sampled last; build it anew for every look: that reads only what has changed."""

    def __init__(self, node: Node) -> None:
        samples = tuple(node.samples.values())
        tables = node.devices
        if not isinstance(tables, _Tables) or not tables.are_of(samples):
            tables = node.devices = _Tables(samples)
        self._index, self._used, self._simulated = tables.index, tables.used, tables.simulated

    def of(self, rank: Rank) -> Device | None:
        """Return the GPU of a rank, or None where neither the rank nor the machine tells.

        In order: the uuids that the rank named, the process tables of the GPUs, `CUDA_VISIBLE_DEVICES`, and for
        simulated GPUs the local rank. A rank that sees several GPUs uses the one of its local rank, as torchrun's do.
        """
        info = rank.info
        if info.device_uuids:
            uuid = _own(info.device_uuids, info.local_rank)
            return Device(self._index.get(uuid, ""), uuid)
        if used := self._used.get((info.key.run, str(info.key.rank))):
            return used
        visible = [part.strip() for part in info.visible_devices.split(",") if part.strip()]
        if visible:
            return self._named(_own(visible, info.local_rank))
        return self._named(str(info.local_rank)) if self._simulated else None

    def _named(self, name: str) -> Device | None:
        """Find a GPU by its index or by the beginning of its uuid, as CUDA does."""
        for uuid, gpu in self._index.items():
            if name == gpu or (len(name) > 4 and uuid.startswith(name)):
                return Device(gpu, uuid)
        return None


def _own(choices: Sequence[str], local_rank: int) -> str:
    return choices[local_rank] if local_rank < len(choices) else choices[0]


def _labels(sample: Sample) -> dict[str, str]:
    return dict(zip(sample.metric.labels, sample.labels, strict=True))
