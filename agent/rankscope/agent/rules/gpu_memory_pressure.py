"""The memory of a rank's GPU is nearly full, or soon will be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._filling import Filling, filling, gigabytes, minutes
from rankscope.agent.rules._fresh import fresh
from rankscope.agent.rules._pauses import steps_of_attempt
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.runs.devices import Device, Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class GpuMemoryPressure:
    """The memory of a rank's GPU is full to `threshold`, or at its present growth will be within `horizon`.

    The forecast looks at the last `window` seconds, and needs a rank that made `warmup` steps: allocators fill their
    caches in the first ones since it was started. It is told only where memory grew through the whole window, to more
    than was ever used before. What the allocator keeps and never needed at one time is no use of memory, where the rank
    tells (`watch()`): torch gives it back before it runs out.

    Needs `gpu_memory_used_bytes` and `gpu_memory_size_bytes`, or the same of a MIG instance.

    Defaults: TraceML warns at 92 % and calls 97 % critical for a step's peak; a caching allocator keeps what it had, so
    that only the upper one is of use for what is sampled.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("gpu_memory_used_bytes", "gpu_memory_size_bytes")
    severity: Severity = "warning"
    for_: Span = field(default_factory=lambda: Span(seconds=10.0))
    threshold: float = 0.97  # of what is not reserved
    horizon: Seconds = 600.0
    window: Seconds = 300.0
    warmup: int = 50  # steps

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None
        devices = Devices(node)

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            if rank.state(now) not in ("running", "silent"):
                return ()
            device = devices.of(rank)
            memory = _memory(node, device, now) if device is not None else None
            if device is None or memory is None:
                return Incomplete("the memory of this rank's GPU is not known")
            return self._judge(node, rank, device, *memory, now)

        return each_rank(run.ranks.values(), judge)

    def _judge(
        self, node: Node, rank: Rank, device: Device, used: Series, size: float, now: float
    ) -> tuple[Finding, ...]:
        spare = _spare(rank)
        share = (used.last - spare) / size
        growth: Filling | None = None
        start = int(np.searchsorted(used.time, now - self.window))
        if steps_of_attempt(rank) >= self.warmup and used.time[0] <= now - 0.9 * self.window:
            growth = filling(used.time[start:], used.value[start:], size + spare)
        known = used.value[int(np.searchsorted(used.time, _began(rank))) : start]
        higher = float(known.max()) if len(known) else 0.0  # it was there before, and fell back by itself
        soon = growth is not None and growth.seconds <= self.horizon and growth.rate * self.window >= 0.01 * size
        soon = soon and used.last > higher
        if share < self.threshold and not soon:
            return ()
        which = f"GPU {device.gpu or device.uuid} of rank {rank.info.key.rank}"
        level = f"{share:.0%} of its memory is used, {gigabytes(size + spare - used.last)} are left"
        if soon and growth is not None:
            level += f"; at {gigabytes(60 * growth.rate)}/min it is full in {minutes(growth.seconds)}"
        return (
            Finding(
                f"{which}: {level}",
                step=rank.step,
                time=now,
                value=share,
                rank=rank.info.key.rank,
                gpu=device.gpu or None,
                causes=tuple(_causes(node, rank, device, soon)),
            ),
        )


def _began(rank: Rank) -> float:
    """Return when the present attempt began, in Unix seconds; 0 for the first."""
    return rank.restarts[-1][2] if rank.restarts else 0.0


def _spare(rank: Rank) -> float:
    """Return the bytes that the rank's allocator keeps beyond the most it ever needed, 0 where it does not tell."""
    reserved, peak = rank.series.get("memory/reserved_bytes"), rank.role("gpu_memory_peak")
    if reserved is None or peak is None or not len(reserved) or not len(peak):
        return 0.0
    spare = reserved.last - peak.last
    return spare if spare > 0 and math.isfinite(spare) else 0.0


def _memory(node: Node, device: Device, now: float) -> tuple[Series, float] | None:
    """Return the use of a rank's GPU or MIG instance, and the bytes that there are for programs."""
    for kind in ("gpu", "mig"):
        used = node.window(f"{kind}_memory_used_bytes", device.gpu, device.uuid)
        size = node.window(f"{kind}_memory_size_bytes", device.gpu, device.uuid)
        if used is not None and size is not None and len(size) and fresh(used, now):
            reserved = node.window("gpu_memory_reserved_bytes", device.gpu, device.uuid)
            return used, size.last - (reserved.last if reserved is not None and kind == "gpu" else 0.0)
    return None


def _causes(node: Node, rank: Rank, device: Device, grows: bool) -> list[Cause]:
    found: list[Cause] = []
    stranger = node.window("gpu_process_memory_bytes", device.gpu, device.uuid, "", "")
    if stranger is not None and len(stranger) and stranger.last > 2**30:
        evidence = f"processes that are no rank hold {gigabytes(stranger.last)}"
        found.append(Cause("others use this GPU too", evidence, "end them, or move them to another GPU (nvidia-smi)"))
    if grows:
        fix = "look for tensors that are kept from step to step: losses summed without .item(), growing lists, hooks"
        found.append(Cause("the program keeps what it no longer needs", "memory grew through the whole window", fix))
    fix = "a smaller batch with gradient accumulation, activation checkpointing, or sharded optimizer state"
    evidence = "memory is steadily full, which is no sign where a framework takes the card at its start (JAX)"
    found.append(Cause("model, batch and activations are near what the card holds", evidence, fix))
    return found
