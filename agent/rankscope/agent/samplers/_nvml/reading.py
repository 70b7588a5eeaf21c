"""What one look at the GPUs gives, as it crosses from the process that holds NVML to the agent."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

INFO = ("name", "pci_bus_id", "minor", "serial", "vbios", "mig_mode")


@dataclass(slots=True)
class Process:
    """A process on a GPU, by its pid as the driver tells it."""

    pid: int
    kind: str  # compute or graphics
    memory: float | None  # bytes
    utilization: float | None = None  # ratio of SM time


@dataclass(slots=True)
class Instance:
    """A MIG instance."""

    uuid: str
    profile: str  # as in the device's name: 1g.10gb
    gpu_instance: int
    compute_instance: int
    values: list[tuple[str, str, float]]  # metric, label value, value
    processes: list[Process] | None  # None where the driver does not list them


@dataclass(slots=True)
class Reading:
    """A GPU; without `uuid` where not even that could be read: it is lost, or this user may not look at it."""

    index: int
    uuid: str
    info: dict[str, str] = field(default_factory=dict[str, str])  # keys: INFO
    values: list[tuple[str, str, float]] = field(default_factory=list[tuple[str, str, float]])
    processes: list[Process] | None = field(default_factory=list[Process])
    instances: list[Instance] = field(default_factory=list[Instance])
    lost: str = ""  # why it does not answer

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes. Written out: dataclasses.asdict copies every value, and took half the time."""
        tree: dict[str, Any] = {name: getattr(self, name) for name in ("index", "uuid", "info", "values", "lost")}
        tree["processes"] = None if self.processes is None else [asdict(each) for each in self.processes]
        tree["instances"] = [asdict(each) for each in self.instances]
        return tree

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Reading:
        """Raises TypeError or LookupError when the tree is none."""
        tree["values"] = [tuple(value) for value in tree["values"]]
        tree["processes"] = _processes(tree["processes"])
        for each in tree["instances"]:
            each["values"] = [tuple(value) for value in each["values"]]
            each["processes"] = _processes(each["processes"])
        tree["instances"] = [Instance(**each) for each in tree["instances"]]
        return cls(**tree)


def _processes(trees: list[dict[str, Any]] | None) -> list[Process] | None:
    return None if trees is None else [Process(**each) for each in trees]


@dataclass(frozen=True, slots=True)
class Xid:
    """An XID error: its code and when it was seen, Unix seconds."""

    uuid: str
    code: int
    time: float


@dataclass(slots=True)
class Look:
    """All GPUs at one time."""

    versions: dict[str, str]  # driver_version, nvml_version, cuda_version
    cards: list[Reading]
    xids: list[Xid] = field(default_factory=list[Xid])
    simulated: bool = False
