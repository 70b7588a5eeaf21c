"""One GPU with its MIG instances and processes, as a reading."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from rankscope.agent.samplers._nvml.api import ODD, nvml
from rankscope.agent.samplers._nvml.card import UNSUPPORTED, Card, LostError, Profile, check, number
from rankscope.agent.samplers._nvml.mig_rows import MIG_ROWS
from rankscope.agent.samplers._nvml.reading import Instance, Process, Reading
from rankscope.agent.samplers._nvml.rows import ROWS

ProfileOf = Callable[[object, "int | None"], "Profile | None"]
"""Makes the profile of a GPU's handle, or of one MIG GPU instance on it; None where there is no profiling."""

_MOST_INSTANCES = 64  # of a card; today's have 7
_MOST_BYTES = float(1 << 44)


class Device:
    """A GPU behind its handle. Raises NVMLError or LostError when not even the uuid can be read."""

    def __init__(self, api: Any, index: int, handle: object, profile_of: ProfileOf, driver: str) -> None:
        self._api = api
        self._handle = handle
        self._profile_of = profile_of
        self.index = index
        try:
            self.uuid = str(api.nvmlDeviceGetUUID(handle))
        except ODD as error:
            raise LostError(f"its uuid is none: {error}") from None
        self._driver = driver
        self._has_modes = True  # until the driver says that it has none
        self._mig = self._mig_mode("")
        self._card = self._whole()
        self._facts = self._read_facts()
        self._instances: list[_Slice] | None = None
        self._seen = 0  # time stamp of the newest process utilization, microseconds

    def read(self, slow: bool) -> Reading:
        """Return what can be read now. Raises LostError or DriverError."""
        if slow or self._instances is None or not all(each.there() for each in self._instances):
            before, self._mig = self._mig, self._mig_mode(self._mig)
            if self._mig != before:
                self._card = self._whole()  # what was unsupported may be supported now
            self._enumerate()
        reading = Reading(self.index, self.uuid, {**self._facts, "mig_mode": self._mig})
        reading.values = self._card.read(slow)
        reading.instances = [each.read(slow) for each in self._instances or ()]
        if reading.instances:
            lists = [each.processes for each in reading.instances]
            reading.processes = None if None in lists else [process for each in lists for process in each or ()]
        else:
            reading.processes = self._with_utilization(processes(self._api, self._handle))
        return reading

    def _whole(self) -> Card:
        # GPM samples of the whole device are not to be had in MIG mode, only those of instances
        profile = None if self._mig == "enabled" else self._profile_of(self._handle, None)
        return Card(self._api, self._handle, ROWS, profile, self._driver)

    def _text(self, function: str) -> str:
        try:
            return text(self._api, function, self._handle)
        except nvml.NVMLError as error:
            check(error)
            return ""

    def _read_facts(self) -> dict[str, str]:
        address = ""
        with contextlib.suppress(nvml.NVMLError, *ODD):
            address = str(self._api.nvmlDeviceGetPciInfo(self._handle).busId).lower()
        if len(address) == 16 and address.startswith("0000"):
            address = address[4:]  # 00000000:3b:00.0 → 0000:3b:00.0, as the kernel writes it
        return {
            "name": self._text("nvmlDeviceGetName"),
            "pci_bus_id": address,
            "minor": self._text("nvmlDeviceGetMinorNumber"),
            "serial": self._text("nvmlDeviceGetSerial"),
            "vbios": self._text("nvmlDeviceGetVbiosVersion"),
        }

    def _mig_mode(self, before: str) -> str:
        """Return what it is, "" where there is none, what it was `before` while the card does not tell."""
        if not self._has_modes:
            return ""
        try:
            current = self._api.nvmlDeviceGetMigMode(self._handle)[0]
        except nvml.NVMLError as error:
            check(error)
            self._has_modes = error.value not in UNSUPPORTED
            return before if self._has_modes else ""
        return "enabled" if current == nvml.NVML_DEVICE_MIG_ENABLE else "disabled"

    def _enumerate(self) -> None:
        """Find the MIG instances; those that were known keep what they learned."""
        known = {each.uuid: each for each in self._instances or () if each.there()}
        self._instances = []
        if self._mig != "enabled":
            return
        try:
            count = self._api.nvmlDeviceGetMaxMigDeviceCount(self._handle)
        except nvml.NVMLError as error:
            check(error)
            return
        for i in range(min(count, _MOST_INSTANCES)):
            with contextlib.suppress(nvml.NVMLError, *ODD):  # a slot without an instance: not found
                handle = self._api.nvmlDeviceGetMigDeviceHandleByIndex(self._handle, i)
                uuid = str(self._api.nvmlDeviceGetUUID(handle))
                self._instances.append(
                    known.get(uuid) or _Slice(self._api, uuid, handle, self._handle, self._profile_of)
                )

    def _with_utilization(self, found: list[Process] | None) -> list[Process] | None:
        """Add the SM time of each process since the last look, where the driver keeps it."""
        if not found:
            return found
        try:
            samples = self._api.nvmlDeviceGetProcessUtilization(self._handle, self._seen)
        except nvml.NVMLError as error:
            check(error)
            return found
        except ODD:
            return found
        newest: dict[int, tuple[int, int]] = {}
        for sample in samples:
            if sample.smUtil <= 100:
                newest[sample.pid] = max(newest.get(sample.pid, (0, 0)), (sample.timeStamp, sample.smUtil))
        self._seen = max((stamp for stamp, _ in newest.values()), default=self._seen)
        for process in found:
            if process.pid in newest:
                process.utilization = newest[process.pid][1] / 100
        return found


class _Slice:
    """A MIG instance behind its handle."""

    def __init__(self, api: Any, uuid: str, handle: object, parent: object, profile_of: ProfileOf) -> None:
        self._api = api
        self._handle = handle
        self.uuid = uuid
        self._gpu_instance = int(api.nvmlDeviceGetGpuInstanceId(handle))
        self._compute_instance = int(api.nvmlDeviceGetComputeInstanceId(handle))
        name = ""
        with contextlib.suppress(nvml.NVMLError):
            name = text(api, "nvmlDeviceGetName", handle)
        self._profile = name.split("MIG ", 1)[1] if "MIG " in name else ""
        self._card = Card(api, handle, MIG_ROWS, profile_of(parent, self._gpu_instance))

    def there(self) -> bool:
        """Say whether the handle still means this instance: those of instances that are gone are used again."""
        try:
            return str(self._api.nvmlDeviceGetUUID(self._handle)) == self.uuid
        except (nvml.NVMLError, *ODD):
            return False

    def read(self, slow: bool) -> Instance:
        values = self._card.read(slow)
        own = processes(self._api, self._handle)
        return Instance(self.uuid, self._profile, self._gpu_instance, self._compute_instance, values, own)


def text(api: Any, function: str, handle: object) -> str:
    """Return what a function tells of a device, "" where that is no text. Raises NVMLError."""
    try:
        return str(getattr(api, function)(handle))
    except ODD:
        return ""


def processes(api: Any, handle: object) -> list[Process] | None:
    """Return the processes of a device, None where those that compute cannot be listed."""
    computing = _running(api, "compute", handle)
    if computing is None:
        return None
    found: dict[int, Process] = {}
    for kind, running in (("graphics", _running(api, "graphics", handle) or []), ("compute", computing)):
        for each in running:
            if each.pid:  # 0: in a PID namespace that is out of sight
                memory = number(each.usedGpuMemory)
                found[each.pid] = Process(int(each.pid), kind, memory if (memory or 0.0) <= _MOST_BYTES else None)
    return list(found.values())


def _running(api: Any, kind: str, handle: object) -> list[Any] | None:
    try:
        return list(getattr(api, f"nvmlDeviceGet{kind.capitalize()}RunningProcesses")(handle))
    except nvml.NVMLError as error:
        check(error)
    except ODD:
        pass
    return None
