"""Prints a scenario of what NVML answers here: `python -m tests.nvml.record > tests/captures/<card>.scenario`.

Uuids, serial numbers and pids are nobody's business and are made up.
"""

from __future__ import annotations

import ctypes
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rankscope.agent.samplers._nvml.api import nvml
from rankscope.agent.samplers._nvml.card import UNSUPPORTED, DriverError, LostError
from rankscope.agent.samplers._nvml.child import versions
from rankscope.agent.samplers._nvml.device import Device
from rankscope.agent.samplers._nvml.profile import GpmProfile
from rankscope.agent.samplers._nvml.reads import ALL_LINKS

_PARTS: dict[str, tuple[str, ...]] = {  # what a scenario names of answers that have parts
    "nvmlDeviceGetUtilizationRates": ("gpu", "memory"),
    "nvmlDeviceGetMemoryInfo": ("total", "reserved", "used"),
    "nvmlDeviceGetPciInfo": ("busId",),
    "nvmlDeviceGetMigMode": ("0", "1"),
    "nvmlDeviceGetRemappedRows": ("0", "1", "2", "3"),
    "nvmlDeviceGetEncoderUtilization": ("0",),
    "nvmlDeviceGetDecoderUtilization": ("0",),
}
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
_RUNNING = re.compile(r"nvmlDeviceGet(Compute|Graphics)RunningProcesses")


class Recorder:
    """nvidia-ml-py that notes what it is told."""

    def __init__(self) -> None:
        self.lines: dict[int, dict[str, str]] = {}  # by the address that a handle is
        self.slices: dict[int, list[int]] = {}  # MIG instances by their GPU
        self._processes: dict[int, dict[int, list[str]]] = {}
        self._sampled: tuple[int, int | None] = (0, None)

    def __getattr__(self, function: str) -> Any:
        real: Callable[..., Any] = getattr(nvml, function)
        if not function.startswith("nvmlDevice"):
            return real

        def call(handle: object, *arguments: Any) -> Any:
            noted = self.lines.setdefault(address(handle), {})
            parts = _PARTS.get(function)
            key = function if parts else ".".join([function, *(str(each) for each in arguments)])
            try:
                got = real(handle, *arguments)
            except nvml.NVMLError as error:
                if error.value not in UNSUPPORTED and not function.endswith(("HandleByIndex", "Utilization")):
                    noted[f"{key}.{parts[0]}" if parts else key] = f"error {error.value}"
                raise
            if function == "nvmlDeviceGetMigDeviceHandleByIndex":
                self.slices.setdefault(address(handle), []).append(address(got))
            elif function == "nvmlDeviceGetFieldValues":
                self._note_fields(noted, arguments[0], got)
            elif running := _RUNNING.match(function):
                for each in got:
                    memory = str(-1 if each.usedGpuMemory is None else each.usedGpuMemory)
                    self._process(handle, each.pid)[:2] = [running[1].lower(), memory]
            elif function == "nvmlDeviceGetProcessUtilization":
                for each in got:
                    self._process(handle, each.pid)[2:] = [str(each.smUtil)]
            elif parts:
                for part in parts:
                    value = got[int(part)] if part.isdigit() else getattr(got, part, None)
                    if value is not None:
                        noted[f"{key}.{part}"] = str(value)
            else:
                noted[key] = str(got)
            return got

        return call

    def nvmlGpmSampleGet(self, handle: object, sample: object) -> None:  # noqa: N802
        self._sampled = address(handle), None
        nvml.nvmlGpmSampleGet(handle, sample)

    def nvmlGpmMigSampleGet(self, handle: object, instance: int, sample: object) -> None:  # noqa: N802
        self._sampled = address(handle), instance
        nvml.nvmlGpmMigSampleGet(handle, instance, sample)

    def nvmlGpmMetricsGet(self, question: Any) -> Any:  # noqa: N802
        got = nvml.nvmlGpmMetricsGet(question)
        card, instance = self._sampled
        places = [card]
        if instance is not None:
            own = str(instance)
            places = [each for each in self.slices[card] if self.lines[each].get("nvmlDeviceGetGpuInstanceId") == own]
        for place in places:
            for i in range(question.numMetrics):
                if got.metrics[i].nvmlReturn == nvml.NVML_SUCCESS:
                    self.lines[place][f"gpm.{got.metrics[i].metricId}"] = f"{got.metrics[i].value:.6f}"
        return got

    def _process(self, handle: object, pid: int) -> list[str]:
        """Return what is noted of a process: kind, memory, and SM time where it is told."""
        return self._processes.setdefault(address(handle), {}).setdefault(pid, ["compute", "-1"])

    def _note_fields(self, noted: dict[str, str], ids: list[tuple[int, int]], answers: Any) -> None:
        for (number, scope), answer in zip(ids, answers, strict=True):
            key = f"field.{number}" + (f".{scope}" if scope not in (0, ALL_LINKS) else "")
            if answer.nvmlReturn == nvml.NVML_SUCCESS:
                value = getattr(answer.value, _MEMBERS[answer.valueType])
                noted[key] = f"{value:.6f}" if isinstance(value, float) else str(value)
            elif answer.nvmlReturn not in UNSUPPORTED:
                noted[key] = f"error {answer.nvmlReturn}"

    def describe(self, place: int, uuid: str) -> list[str]:
        """Return the lines of a card or an instance."""
        hidden = {"nvmlDeviceGetUUID": uuid, "nvmlDeviceGetSerial": "1650000000000"}
        lines = [f"{key} {hidden.get(key, value)}" for key, value in self.lines[place].items()]
        processes = enumerate(self._processes.get(place, {}).values(), 4711)
        return lines + [f"process {pid} {' '.join(words)}" for pid, words in processes]


def address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def record() -> list[str]:
    """Return a scenario's lines. Raises NVMLError where NVML cannot be opened."""
    nvml.nvmlInit()
    found = versions()
    major, minor = (found["cuda_version"] or "0.0").split(".")
    lines = [f"driver {found['driver_version']}", f"nvml {found['nvml_version']}", f"cuda {major}{int(minor):02d}0"]
    for index in range(nvml.nvmlDeviceGetCount()):
        recorder, handle = Recorder(), nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            device = Device(recorder, index, handle, partial(GpmProfile, recorder), found["driver_version"])
            device.read(slow=True)
            time.sleep(1.0)  # profiling figures are of the time between two looks
            device.read(slow=True)
        except (LostError, DriverError) as error:
            lines.append(f"# GPU {index}: {error}")
        lines += ["", "card", *recorder.describe(address(handle), f"GPU-00000000-0000-4000-8000-{index:012d}")]
        for i, place in enumerate(dict.fromkeys(recorder.slices.get(address(handle), []))):
            lines += ["mig", *recorder.describe(place, f"MIG-00000000-0000-4000-{index:04d}-{i:012d}")]
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(record()) + "\n")
