"""GPUs: what they do, how they are, what ails them, and which rank uses them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.clock import Follower
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.kmsg import GpuError, KernelLog
from rankscope.agent.samplers._nvml.mig_rows import MIG_ROWS
from rankscope.agent.samplers._nvml.owners import Owners
from rankscope.agent.samplers._nvml.reading import INFO, Look, Process, Reading, Xid
from rankscope.agent.samplers._nvml.row import Row
from rankscope.agent.samplers._nvml.rows import ROWS
from rankscope.agent.samplers._nvml.simulated import Simulated
from rankscope.agent.samplers._nvml.source import BlindError, NvmlSource, installed
from rankscope.agent.samplers._nvml.states import STATES, Figures, State, by_name, slices_of, split, split_slices
from rankscope.agent.samplers._nvml.xids import XidLog

_GPU = ("gpu", "uuid")
_FIND_AGAIN = 60.0  # seconds


def _metric(row: Row) -> Metric:
    labels = (*_GPU, row.label) if row.label else _GPU
    return Metric(row.name, row.kind, row.meaning, labels, row.unit, row.source)


_BY_NAME = {row.name: _metric(row) for row in (*ROWS, *MIG_ROWS)}

INFO_METRIC = Metric(
    "gpu_info",
    "info",
    "Static GPU facts; join on uuid.",
    (*_GPU, *INFO, "simulated"),
    source="nvmlDeviceGetName, GetPciInfo, GetMinorNumber, GetSerial, GetVbiosVersion, GetMigMode",
)
DRIVER_INFO = Metric(
    "gpu_driver_info",
    "info",
    "Versions of the driver, of NVML, and the CUDA version that the driver supports.",
    ("driver_version", "nvml_version", "cuda_version"),
    source="nvmlSystemGetDriverVersion, GetNVMLVersion, GetCudaDriverVersion",
)
UP = Metric("gpu_up", "gauge", "1 while the GPU answers, 0 when it hangs or is lost.", _GPU, "bool", "agent")
PROCESSES = Metric(
    "gpu_processes",
    "gauge",
    "Compute processes on the GPU.",
    _GPU,
    "count",
    "nvmlDeviceGetComputeRunningProcesses",
)
PROCESS_MEMORY = Metric(
    "gpu_process_memory_bytes",
    "gauge",
    'GPU memory of a rank\'s processes, by MIG instance where there are some; run="" for all that is no rank.',
    (*_GPU, "run", "rank"),
    "bytes",
    "nvmlDeviceGetComputeRunningProcesses, nvmlDeviceGetGraphicsRunningProcesses",
)
PROCESS_UTILIZATION = Metric(
    "gpu_process_utilization_ratio",
    "gauge",
    'SM time of a rank\'s processes; run="" for all that is no rank.',
    (*_GPU, "run", "rank"),
    "ratio",
    "nvmlDeviceGetProcessUtilization",
)
STATE_SECONDS = Metric(
    "gpu_state_seconds_total",
    "counter",
    "Time by what the GPU did; state=working|starved|communicating|throttled|idle|dead.",
    (*_GPU, "state"),
    "s",
    "agent",
)
MIG_INFO = Metric(
    "mig_info",
    "info",
    "A MIG instance, by its own uuid, and the GPU that it is on.",
    (*_GPU, "gpu_uuid", "profile", "gpu_instance", "compute_instance"),
    source="nvmlDeviceGetMigDeviceHandleByIndex",
)
MIG_PROCESSES = Metric(
    "mig_processes", "gauge", "Compute processes on a MIG instance.", _GPU, "count", PROCESSES.source
)


@dataclass
class Gpu:
    """GPUs through NVML, in a process of its own that may hang without harm.

    `source`: `auto` uses NVML where it is installed and nothing elsewhere, `nvml` insists on it, `simulated` shows two
    cards that are not there and says so. `deadline` ends a look at the cards, `first_deadline` the first one, which may
    have to wake them. `library`: folder of libnvidia-ml.so.1 where the loader does not look by
    itself (WSL, GKE). `scenario`: file that describes the simulated cards.
    """

    interval: Seconds = 1.0
    source: Literal["auto", "nvml", "simulated"] = "auto"
    deadline: Seconds = 3.0
    first_deadline: Seconds = 20.0
    library: str = ""
    scenario: str = ""
    root: str = "/"
    _nvml: NvmlSource | None = field(default=None, init=False, repr=False)
    _simulated: Simulated | None = field(default=None, init=False, repr=False)
    _owners: Owners = field(init=False, repr=False)
    _xids: XidLog = field(init=False, repr=False)
    _log: KernelLog | None = field(default=None, init=False, repr=False)
    _addresses: dict[str, str] = field(default_factory=dict[str, str], init=False, repr=False)  # uuids, as last seen
    _seconds: dict[tuple[str, str], dict[State, float]] = field(
        default_factory=dict[tuple[str, str], "dict[State, float]"], init=False, repr=False
    )
    _last: float = field(default=0.0, init=False, repr=False)
    _find_at: float = field(default=0.0, init=False, repr=False)
    _follower: Follower = field(default_factory=Follower, init=False, repr=False)

    metrics: ClassVar[tuple[Metric, ...]] = (
        *_BY_NAME.values(),
        INFO_METRIC,
        DRIVER_INFO,
        UP,
        PROCESSES,
        PROCESS_MEMORY,
        PROCESS_UTILIZATION,
        STATE_SECONDS,
        MIG_INFO,
        MIG_PROCESSES,
        *XidLog.metrics,
    )

    def __post_init__(self) -> None:
        self._owners = Owners(self.root)
        self._xids = XidLog()
        if self.source == "simulated":
            self._simulated = Simulated(self.scenario)

    def _open(self) -> NvmlSource | None:
        """Return NVML, None where it is not installed; a driver may be installed while the agent runs."""
        now = time.monotonic()
        if self._nvml is None and now >= self._find_at:
            self._find_at = now + _FIND_AGAIN
            if self.source == "nvml" or installed(self.library):
                self._nvml = NvmlSource(self.library, self.deadline, self.first_deadline, self.root)
                self._log = KernelLog(self.root)
        return self._nvml

    def sample(self, node: Node) -> Iterator[Sample]:
        """Yield what the GPUs give; nothing where there is no NVML. Raises BlindError when no GPU can be read."""
        now = node.clock.now()
        self._xids.shift(self._follower.moved(node.clock.offset))
        if self._simulated is not None:
            look = self._simulated.look(node, now)
        elif (source := self._open()) is not None:
            try:
                look = source.look()
            except BlindError as error:
                self._xids.add(self._logged(), "kernel")
                raise BlindError(f"{error}{self._xids.recent(now)}") from None
        else:
            return
        self._addresses = {each.info.get("pci_bus_id", "").rpartition(".")[0]: each.uuid for each in look.cards}
        self._xids.add(look.xids, "nvml")
        self._xids.add(self._logged(), "kernel")
        self._owners.look(node, time.monotonic())
        seconds, self._last = (now - self._last if self._last else 0.0), now
        yield Sample(DRIVER_INFO, 1.0, tuple(look.versions.get(name, "") for name in DRIVER_INFO.labels))
        ranks = _ranks(node)
        for reading in look.cards:
            yield from self._card(look, reading, seconds, ranks)

    def _logged(self) -> Iterator[Xid]:
        """Yield errors from the kernel's log: it knows of a card that is gone, when NVML cannot tell any more."""
        for error in self._log.read() if self._log is not None else ():
            if isinstance(error, GpuError) and error.address in self._addresses:
                yield Xid(self._addresses[error.address], error.code, error.time)

    def _card(self, look: Look, reading: Reading, seconds: float, named: dict[str, list[Rank]]) -> Iterator[Sample]:
        gpu = (str(reading.index), reading.uuid)
        facts = tuple(reading.info.get(name, "") for name in INFO)
        yield Sample(INFO_METRIC, 1.0, (*gpu, *facts, "true" if look.simulated else "false"))
        yield Sample(UP, float(not reading.lost), gpu)
        yield from self._xids.samples(*gpu)
        for name, label, value in reading.values:
            yield Sample(_BY_NAME[name], value, (*gpu, label) if label else gpu)
        seen: dict[str, list[Rank]] = {}  # by uuid of the card or its instances
        if not reading.lost:
            if reading.processes is not None:
                yield Sample(PROCESSES, float(sum(each.kind == "compute" for each in reading.processes)), gpu)
            for place in reading.instances or (reading,):
                yield from self._processes((gpu[0], place.uuid), place.processes or [], seen.setdefault(place.uuid, []))
        yield from self._instances(reading)
        # where the agent may not see the processes, the devices that the ranks named tell whose the card is
        yield from self._states(gpu, reading, seen if any(seen.values()) else named, seconds)

    def _processes(self, gpu: tuple[str, str], processes: list[Process], ranks: list[Rank]) -> Iterator[Sample]:
        """Yield what ranks and strangers use, and note the ranks."""
        memory: dict[tuple[str, str], float] = {}
        utilization: dict[tuple[str, str], float] = {}
        for process in processes:
            rank = self._owners.of(process.pid)
            if rank is not None and rank not in ranks:
                ranks.append(rank)
            owner = (rank.info.key.run, str(rank.info.key.rank)) if rank is not None else ("", "")
            if process.memory is not None:
                memory[owner] = memory.get(owner, 0.0) + process.memory
            if process.utilization is not None:
                utilization[owner] = utilization.get(owner, 0.0) + process.utilization
        for owner, value in memory.items():
            yield Sample(PROCESS_MEMORY, value, (*gpu, *owner))
        for owner, value in utilization.items():
            yield Sample(PROCESS_UTILIZATION, min(1.0, value), (*gpu, *owner))

    def _instances(self, reading: Reading) -> Iterator[Sample]:
        for each in reading.instances:
            own = (str(reading.index), each.uuid)
            numbers = (str(each.gpu_instance), str(each.compute_instance))
            yield Sample(MIG_INFO, 1.0, (*own, reading.uuid, each.profile, *numbers))
            if each.processes is not None:
                yield Sample(MIG_PROCESSES, float(len(each.processes)), own)
            for name, label, value in each.values:
                yield Sample(_BY_NAME[name], value, (*own, label) if label else own)

    def _states(
        self, gpu: tuple[str, str], reading: Reading, ranks: dict[str, list[Rank]], seconds: float
    ) -> Iterator[Sample]:
        """Add the time since the last look to what it was; a gap of minutes (a suspended machine) was nothing."""
        figures = Figures.of(by_name(reading.values))
        parts: dict[State, float] | None
        if reading.lost:
            parts = {"dead": 1.0}
        elif reading.instances:
            slices = slices_of(reading.info.get("name", ""))
            parts = split_slices(slices, figures, reading.instances, lambda each: ranks.get(each.uuid, []))
        else:
            parts = split(figures, ranks.get(reading.uuid, []))
        if parts is None and gpu not in self._seconds:
            return  # a card that does not tell what it does, as an A100 in MIG mode, is in no state
        totals = self._seconds.setdefault(gpu, dict.fromkeys(STATES, 0.0))
        if parts is not None and 0 < seconds < 10 * self.interval + self.deadline:
            for state, part in parts.items():
                totals[state] += part * seconds
        for state in STATES:
            yield Sample(STATE_SECONDS, totals[state], (*gpu, state))

    def close(self) -> None:
        """End the process that holds NVML."""
        if self._nvml is not None:
            self._nvml.close()
        if self._log is not None:
            self._log.close()


def _ranks(node: Node) -> dict[str, list[Rank]]:
    """Return the ranks that run, by the uuids of the GPU and the MIG instance that they are on, if known last time."""
    devices = Devices(node)
    found: dict[str, list[Rank]] = {}
    for _, rank in node.ranks():
        device = devices.of(rank) if rank.goodbye is None else None
        if device is not None:
            for uuid in {device.uuid, devices.board(device)}:
                found.setdefault(uuid, []).append(rank)
    return found
