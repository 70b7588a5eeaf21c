"""The node's GPUs as rules look at them: what was sampled of each, and whose it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rankscope.agent.model import FloatArray
from rankscope.agent.rules._fresh import fresh
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node


class Card:
    """One GPU."""

    def __init__(self, node: Node, gpu: str, uuid: str, owners: tuple[str, ...], now: float) -> None:
        self._node = node
        self._now = now
        self.gpu = gpu
        self.uuid = uuid
        self.owners = owners  # "rank 3 of exp-1"

    @property
    def name(self) -> str:
        """`GPU 3 (rank 3 of exp-1)`, for summaries."""
        return f"GPU {self.gpu}" + (f" ({', '.join(self.owners)})" if self.owners else "")

    def series(self, metric: str, *labels: str) -> Series | None:
        """Return what was sampled, None where there is nothing that is fresh."""
        series = self._node.window(metric, self.gpu, self.uuid, *labels)
        return series if fresh(series, self._now) else None

    def last(self, metric: str, *labels: str) -> float | None:
        series = self.series(metric, *labels)
        return series.last if series is not None else None

    def recent(self, seconds: float, metric: str, *labels: str) -> FloatArray | None:
        """Return the values of the last `seconds`, None where it was not sampled for as long."""
        series = self.series(metric, *labels)
        if series is None or series.time[0] > self._now - 0.9 * seconds:
            return None
        return series.value[int(np.searchsorted(series.time, self._now - seconds)) :]

    def growth(self, seconds: float, metric: str, *labels: str) -> float:
        """Return by how much a counter grew in the last `seconds`, 0 where it was not sampled."""
        series = self.series(metric, *labels)
        if series is None:
            return 0.0
        values = series.value[int(np.searchsorted(series.time, self._now - seconds)) :]
        steps = np.diff(values)
        return float(steps[steps > 0].sum())  # a fall is a driver that was loaded anew

    def labels(self, metric: str) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the further label values of a metric's series on this GPU, with the newest value."""
        for labels, series in self._node.windows(metric):
            if labels[:2] == (self.gpu, self.uuid) and len(series):
                yield labels[2:], series.last


def cards(node: Node, now: float) -> list[Card]:
    """Return the GPUs that were sampled, with the ranks that run on them."""
    devices = Devices(node)
    owners: dict[str, list[str]] = {}
    for run, rank in node.ranks():
        device = devices.of(rank) if rank.goodbye is None else None
        if device is not None:
            owners.setdefault(devices.board(device), []).append(f"rank {rank.info.key.rank} of {run.name}")
    return [
        Card(node, labels[0], labels[1], tuple(owners.get(labels[1], ())), now)
        for labels, series in node.windows("gpu_up")
        if fresh(series, now)
    ]
