"""Numbers that are computed on a device and wanted on the host, without waiting for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor

Then: TypeAlias = "Callable[[list[float]], None]"
MOST = 256  # results that wait; beyond it the oldest are dropped


class Mark(Protocol):
    def record(self, stream: object) -> None: ...
    def query(self) -> bool: ...


class Later:
    """Results on their way from devices. On the CPU they are there at once."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[list[Mark], list[Tensor], Then]] = deque()

    def put(self, vectors: Sequence[Tensor], then: Then) -> None:
        """Call `then` with all numbers of some vectors, in order, once they are there."""
        marks: list[Mark] = []
        copies: list[Tensor] = []
        for vector in vectors:
            device = getattr(torch, vector.device.type, None)
            if vector.device.type == "cpu" or device is None or not hasattr(device, "Event"):
                copies.append(vector.cpu())
                continue
            copy = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
            copy.copy_(vector, non_blocking=True)
            mark = cast(Mark, device.Event())
            mark.record(device.current_stream(vector.device))
            marks.append(mark)
            copies.append(copy)
        if not marks and not self._waiting:
            then(_numbers(copies))
            return
        if len(self._waiting) >= MOST:
            self._waiting.popleft()
        self._waiting.append((marks, copies, then))

    def poll(self) -> None:
        """Hand over what has arrived."""
        while self._waiting and all(mark.query() for mark in self._waiting[0][0]):
            _, copies, then = self._waiting.popleft()
            then(_numbers(copies))


def _numbers(vectors: Sequence[Tensor]) -> list[float]:
    return [float(number) for vector in vectors for number in cast("list[float]", cast(Any, vector).tolist())]
