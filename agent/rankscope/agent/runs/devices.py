"""Which GPU a rank runs on: the join of the training with the machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rankscope.agent.model import Metric, RankInfo, Sample
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node

# The run state gives it for every rank, and the process sampler, which sees more, for those that live here.
RANK_INFO = Metric(
    "rank_info",
    "info",
    "Which GPU, process and container a rank runs on.",
    ("run", "rank", "local_rank", "gpu", "uuid", "pid", "workload_container", "workload_namespace", "workload_pod"),
    source="hello + /proc/PID/cgroup + NVML processes + CUDA_VISIBLE_DEVICES",
)

_UUIDS = ("GPU-", "MIG-")
_INDEX = re.compile(r"\s*([+-]?[0-9]+)")  # as strtol reads it: `1gpu` is 1


class Device(NamedTuple):
    """A GPU as series name it: its index as text, and its uuid; either is "" where unknown."""

    gpu: str
    uuid: str


class _Tables:
    """The GPUs that one set of samples tells of."""

    def __init__(self, samples: tuple[tuple[Sample, ...], ...]) -> None:
        self.samples = samples
        self.index: dict[str, str] = {}  # by uuid, of GPUs and MIG instances
        self.boards: dict[str, str] = {}  # uuid of the GPU by that of its MIG instance
        self.old_names: dict[str, str] = {}  # uuid of a MIG instance by its name before driver 470
        self.models: set[str] = set()
        self.used: dict[tuple[str, str], Device] = {}  # by run and rank, from the GPUs' process tables
        self.simulated = False
        held: dict[tuple[str, str], float] = {}
        for each in samples:
            for sample in each:
                if sample.metric.name == "gpu_info":
                    labels = _labels(sample)
                    self.index[labels["uuid"]] = labels["gpu"]
                    self.models.add(labels.get("name", ""))
                    self.simulated |= labels.get("simulated") == "true"
                elif sample.metric.name == "mig_info":
                    labels = _labels(sample)
                    uuid, board = labels["uuid"], labels.get("gpu_uuid", "")
                    self.index[uuid], self.boards[uuid] = labels["gpu"], board
                    instances = f"{labels.get('gpu_instance')}/{labels.get('compute_instance')}"
                    self.old_names[f"MIG-{board}/{instances}"] = uuid
                elif sample.metric.name == "gpu_process_memory_bytes" and isinstance(sample.value, float):
                    labels = _labels(sample)
                    key = labels["run"], labels["rank"]
                    if sample.value > held.get(key, -1.0):  # many a rank holds a little on the first GPU, too
                        held[key] = sample.value
                        self.used[key] = Device(labels["gpu"], labels["uuid"])

    def are_of(self, samples: tuple[tuple[Sample, ...], ...]) -> bool:
        return len(samples) == len(self.samples) and all(a is b for a, b in zip(samples, self.samples, strict=True))


class Devices:
    """The node's GPUs as they were sampled last; build it anew for every look: that reads only what has changed."""

    def __init__(self, node: Node) -> None:
        samples = tuple(node.samples.values())
        tables = node.devices
        if not isinstance(tables, _Tables) or not tables.are_of(samples):
            tables = node.devices = _Tables(samples)
        self._tables = tables

    def of(self, rank: Rank) -> Device | None:
        """Return the GPU of a rank, or None where neither the rank nor the machine tells.

        In order: the only device that the rank sees, the process tables of the GPUs, of several devices that it sees
        the one of its local rank, as torchrun's use it, and for simulated GPUs the local rank.
        """
        info = rank.info
        seen = _seen(info)
        only = self._named(seen[0]) if len(seen) == 1 and seen[0].startswith(_UUIDS) else None
        used = self._tables.used.get((info.key.run, str(info.key.rank)))
        if used is not None and (only is None or self.board(used) == only.uuid):
            return used
        if only is not None:
            return only
        if seen:
            own = _own(seen, info.local_rank)
            return self._named(own) if own.startswith(_UUIDS) or self._ordered(info) else None
        return self._named(str(info.local_rank)) if self._tables.simulated else None

    def board(self, device: Device) -> str:
        """Return the uuid of the GPU that a device is, or is a MIG instance of."""
        return self._tables.boards.get(device.uuid, device.uuid)

    def _ordered(self, info: RankInfo) -> bool:
        """Say whether the rank counts GPUs as NVML does: CUDA puts the fastest first unless it is told not to."""
        return len(self._tables.models) < 2 or info.environment.get("cuda_device_order") == "PCI_BUS_ID"

    def _named(self, name: str) -> Device | None:
        """Find a GPU by its index, by the beginning of its uuid, or by a MIG instance's old name, as CUDA does."""
        name = self._tables.old_names.get(name, name)
        found: list[Device] = []
        for uuid, gpu in self._tables.index.items():
            if name == uuid or (name == gpu and uuid not in self._tables.boards):
                return Device(gpu, uuid)
            if len(name) > 4 and uuid.startswith(name):
                found.append(Device(gpu, uuid))
        if len(found) == 1:  # what begins several uuids names none
            return found[0]
        return Device("", name) if name.startswith(_UUIDS) else None


def _seen(info: RankInfo) -> Sequence[str]:
    """Return the devices that a rank sees: by the uuids that it knows, else by what it was told to see."""
    if all(uuid in info.visible_devices for uuid in info.device_uuids):  # they are but a part of that
        return visible(info.visible_devices)
    return info.device_uuids


def visible(names: str) -> list[str]:
    """Return the devices that `CUDA_VISIBLE_DEVICES` names as CUDA reads it.

    Indices or uuids, as the first is, up to the first that is none of the kind; none at all where one is named twice.
    """
    kind = next((kind for kind in _UUIDS if names.startswith(kind)), "")
    found: list[str] = []
    for name in names.split(","):
        index = _INDEX.match(name)
        if kind:
            each = name if name.startswith(kind) else ""
        else:
            each = str(int(index[1])) if index is not None and int(index[1]) >= 0 else ""
        if each in found:
            return []
        if not each:
            break
        found.append(each)
    return found


def _own(choices: Sequence[str], local_rank: int) -> str:
    return choices[local_rank] if local_rank < len(choices) else choices[0]


def _labels(sample: Sample) -> dict[str, str]:
    return dict(zip(sample.metric.labels, sample.labels, strict=True))
