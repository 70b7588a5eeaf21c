"""XID errors: counted by GPU and code, whoever tells of them first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from rankscope.agent.model import Metric, Sample
from rankscope.agent.samplers._nvml.reading import Xid

_CODES = range(1, 1 << 16)  # today's are below 200, and 999 is one that is not known
_LATE = 600.0  # seconds
_SAME = 5.0  # seconds within which NVML and the kernel's log mean the same error

ERRORS = Metric(
    "gpu_xid_errors_total",
    "counter",
    "XID events seen since the agent started, by code.",
    ("gpu", "uuid", "xid"),
    "count",
    "nvmlEventSetWait_v2(XidCriticalError), /dev/kmsg",
)
LAST = Metric(
    "gpu_xid_last_timestamp_seconds",
    "gauge",
    "Unix time of the last XID, by code.",
    ("gpu", "uuid", "xid"),
    "s",
    "nvmlEventSetWait_v2(XidCriticalError), /dev/kmsg",
)


@dataclass(slots=True)
class XidLog:
    """What has been seen so far."""

    metrics: ClassVar[tuple[Metric, ...]] = (ERRORS, LAST)

    _counts: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])  # by uuid and code
    _times: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])
    _teller: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])

    def add(self, xids: Iterable[Xid], teller: str) -> None:
        """Count errors; one that another teller told of a moment ago is the same one."""
        for xid in xids:
            if xid.code not in _CODES:
                continue
            key = (xid.uuid, xid.code)
            told = key in self._times and abs(xid.time - self._times[key]) < _SAME
            if told and self._teller[key] != teller:
                continue
            self._counts[key] = self._counts.get(key, 0) + 1
            self._times[key] = max(xid.time, self._times.get(key, 0.0))
            self._teller[key] = teller

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds: what was so long ago still is."""
        self._times = {key: when + seconds for key, when in self._times.items()}

    def recent(self, now: float) -> str:
        """Return what happened of late in words that go on, "" where nothing did: a driver that hangs has a cause."""
        codes = sorted({code for (_, code), when in self._times.items() if now - when < _LATE})
        return f"; the driver reported XID {', '.join(map(str, codes))} before" if codes else ""

    def samples(self, gpu: str, uuid: str) -> Iterator[Sample]:
        """Yield the codes seen on one GPU."""
        for (owner, code), count in self._counts.items():
            if owner == uuid:
                yield Sample(ERRORS, float(count), (gpu, uuid, str(code)))
                yield Sample(LAST, self._times[owner, code], (gpu, uuid, str(code)))
