"""Faults that really happen inside a training: in its data, its schedule, its speed or its process.

Nothing here touches what is reported. Each fault sets in after the first third of the steps, once the run looks well.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

NAMES = ("none", "nan", "spike", "plateau", "overfit", "explode", "stall", "straggler", "kill", "slow-data")

T = TypeVar("T")


class Fault:
    """One fault of a run of `steps` steps, as seen by one rank; the rank that is hit alone is the last one."""

    def __init__(self, name: str, *, rank: int, steps: int) -> None:
        if name not in NAMES:
            raise ValueError(f"unknown fault {name!r}, known: {', '.join(NAMES)}")
        self.name = name
        self.onset = max(1, steps // 3)
        self.hits_me = rank == int(os.environ.get("WORLD_SIZE", "1")) - 1
        self.attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

    def _on(self, name: str, step: int, last: int | None = None) -> bool:
        return self.name == name and step >= self.onset and (last is None or step < self.onset + last)

    def training_bytes(self, available: int) -> int:
        """overfit: so little text that the model soon knows it by heart."""
        return 4096 if self.name == "overfit" else available

    def loader(self, loader: Iterable[T]) -> Iterator[T]:
        """slow-data: storage that takes longer than the step."""
        for i, batch in enumerate(loader):
            if self._on("slow-data", i):
                time.sleep(0.15)
            yield batch

    def batch(self, step: int, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give a rank other data than it should get.

        nan: for three steps one rank gets batches whose targets are all masked: their mean loss is 0/0.
        spike: for five steps every rank reads a corrupted shard, whose bytes are noise.
        """
        if self._on("nan", step, last=3) and self.hits_me:
            y = torch.full_like(y, -100)
        if self._on("spike", step, last=5):
            x, y = torch.randint_like(x, 256), torch.randint_like(y, 256)
        return x, y

    def lr_factor(self, step: int) -> float:
        """explode: from here on the learning rate is 1000 times too large; plateau: it is zero."""
        if self._on("explode", step):
            return 1000.0
        return 0.0 if self._on("plateau", step) else 1.0

    def clip(self, norm: float) -> float:
        """explode: gradients are not clipped."""
        return float("inf") if self.name == "explode" else norm

    def before_forward(self, step: int) -> None:
        """straggler: one rank computes more than the others; stall: it hangs; kill: it dies, in its first attempt."""
        if not self.hits_me:
            return
        if self._on("straggler", step):
            end = time.perf_counter() + 0.1
            work = torch.ones(64, 64)
            while time.perf_counter() < end:
                work = work @ work * 1e-3
        if self._on("stall", step, last=1):
            time.sleep(90)
        if self._on("kill", step, last=1) and self.attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)
