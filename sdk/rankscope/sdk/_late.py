"""Numbers that are still on a device: copied aside without waiting, and logged when they are there."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol, cast

MAX_WAITING = 4096


class Mark(Protocol):
    """An event on a device's stream."""

    def record(self, stream: object) -> None: ...
    def query(self) -> bool: ...


class Scalar(Protocol):
    """A tensor of one element."""

    def detach(self) -> Scalar: ...
    def numel(self) -> int: ...
    def reshape(self, shape: tuple[()]) -> Scalar: ...
    def copy_(self, other: Scalar, non_blocking: bool) -> Scalar: ...
    def item(self) -> float: ...


class Unavailable(Exception):
    """The value cannot be had without waiting for it; the text says why."""


@dataclass
class Waiting:
    """Values of one step that are on their way."""

    step: int
    time: int  # CLOCK_MONOTONIC ns when they were logged
    names: list[str] = field(default_factory=list[str])
    copies: list[Scalar] = field(default_factory=list[Scalar])
    marks: list[Mark] = field(default_factory=list[Mark])  # one a copy: they may run on several devices

    def add(self, name: str, tensor: object) -> None:
        """Start the copy of one element from its device to pinned memory. Raises Unavailable."""
        torch = sys.modules["torch"]
        value = cast("Scalar", tensor).detach()
        if value.numel() != 1:
            raise Unavailable(f"a tensor of {value.numel()} elements")
        kind = str(getattr(getattr(tensor, "device", None), "type", ""))
        device = getattr(torch, kind, None)
        if device is None or not hasattr(device, "Event"):
            raise Unavailable(f"a tensor on the device {kind!r}")
        capturing = getattr(device, "is_current_stream_capturing", None)
        if capturing is not None and capturing():
            raise Unavailable("logged while a graph is being captured")
        # float64 holds every dtype exactly; the conversion runs on the device, before the copy
        aside = torch.empty((), dtype=torch.float64, pin_memory=True)
        aside.copy_(value.reshape(()), non_blocking=True)
        mark = cast("Mark", device.Event())
        mark.record(device.current_stream(getattr(tensor, "device", None)))
        self.marks.append(mark)
        self.names.append(name)
        self.copies.append(cast("Scalar", aside))

    def ready(self) -> bool:
        return all(mark.query() for mark in self.marks)

    def values(self) -> list[float]:
        return [float(copy.item()) for copy in self.copies]


class Late:
    """All that is on its way, in the order in which it was logged."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self.lost = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, waiting: Waiting) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.lost += len(self._waiting.popleft().names)
        self._waiting.append(waiting)

    def arrived(self, most: int = 64) -> list[Waiting]:
        """Return what is there by now, without waiting; what a device that has failed still held is lost."""
        found: list[Waiting] = []
        while self._waiting and len(found) < most:
            try:
                if not self._waiting[0].ready():
                    break
            except RuntimeError:  # from a device-side assert on, say, every call fails
                self.lost += len(self._waiting.popleft().names)
            else:
                found.append(self._waiting.popleft())
        return found

    def rest(self, deadline: float) -> list[Waiting]:
        """Return what arrives until `deadline` (time.monotonic()); what does not is lost and counted."""
        found = self.arrived(MAX_WAITING)
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.002)
            found += self.arrived(MAX_WAITING)
        self.lost += sum(len(waiting.names) for waiting in self._waiting)
        self._waiting.clear()
        return found
