"""A row of the table of what is read of a GPU.

Nothing here imports NVML or the agent's values, so that the process that holds NVML stays small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rankscope.agent.samplers._nvml.reads import Call, Read

_HUGE = float(1 << 62)


@dataclass(frozen=True, slots=True)
class Row:
    """A metric and how each of its series is read; a value outside `low` to `high` is no value and is not given."""

    name: str
    kind: Literal["gauge", "counter"]
    unit: str
    meaning: str
    reads: Mapping[str, Read | tuple[Read, ...]]  # by label value, "" without; several: the first that is supported
    label: str = ""
    low: float = 0.0
    high: float = _HUGE
    slow: bool = False  # changes seldom, or costs much: read every tenth time
    unless: str = ""  # not read where this metric can be read

    @property
    def source(self) -> str:
        reads = [read for each in self.reads.values() for read in (each if isinstance(each, tuple) else (each,))]
        return ", ".join(dict.fromkeys(str(read) for read in reads))

    def plausible(self, value: float) -> float | None:
        """Return the value if it can be true, else None. Ratios may overshoot by rounding and are cut to 1."""
        if not math.isfinite(value) or value < self.low:
            return None
        if self.unit == "ratio" and self.high < value <= self.high * 1.05:
            return self.high
        return value if value <= self.high else None


def ratio(name: str, meaning: str, read: Read, high: float = 1.0) -> Row:
    return Row(name, "gauge", "ratio", meaning, {"": read}, high=high)


def memory_part(part: str) -> tuple[Read, ...]:
    """Version 2 tells what the driver holds in reserve apart from what is used."""
    return (
        Call("nvmlDeviceGetMemoryInfo", ("nvmlMemory_v2",), part),
        Call("nvmlDeviceGetMemoryInfo", (), part),
    )
