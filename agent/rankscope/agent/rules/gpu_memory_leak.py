"""The memory that a rank holds on its GPU grows without end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, Finding, FloatArray, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._filling import filling, gigabytes, minutes
from rankscope.agent.rules._fresh import fresh
from rankscope.agent.rules._pauses import steps_of_attempt
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.runs.devices import Device, Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class GpuMemoryLeak:
    """What a rank holds on its GPU grew through the whole `window`, by `grown` bytes and by `share` of itself at least.

    The first `warmup` steps since the rank was started do not count, nor does memory that falls back by more than
    `pullback` in between: a cache that fills, or an evaluation that needs more for a while, is no leak.

    Needs `gpu_process_memory_bytes`, or `gpu_memory_used_bytes` where the driver does not tell processes apart.

    Defaults: TraceML's gates for creeping memory: 800 steps, 512 MiB, 6 % at worst, at most 2 % of pull-back.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("gpu_process_memory_bytes",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    grown: float = 512 * 2**20  # bytes
    share: float = 0.06
    pullback: float = 0.02
    warmup: int = 100  # steps that make caches full
    steps: int = 800  # steps without which nothing is said
    window: Seconds = 900.0

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None
        devices = Devices(node)

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            if rank.state(now) not in ("running", "silent"):
                return ()
            device = devices.of(rank)
            held = _held(node, rank, device, now) if device is not None else None
            if device is None or held is None:
                return Incomplete("what this rank holds on its GPU is not known")
            if steps_of_attempt(rank) < self.steps:
                return Incomplete(f"the run made fewer than {self.steps} steps")
            since = max(now - self.window, _time_of_step(rank, self.warmup))
            recent = held.time >= since
            if held.time[recent].size == 0 or now - held.time[recent][0] < 0.5 * self.window:
                return Incomplete("the GPU was not sampled for long enough")
            return self._judge(node, rank, device, held.time[recent], held.value[recent], now)

        return each_rank(run.ranks.values(), judge)

    def _judge(
        self, node: Node, rank: Rank, device: Device, time: FloatArray, value: FloatArray, now: float
    ) -> tuple[Finding, ...]:
        growth = float(value[-1] - value[0])
        peaks = np.maximum.accumulate(value)
        fallen = float(((peaks - value) / np.maximum(peaks, 1.0)).max())
        size = node.window("gpu_memory_size_bytes", device.gpu, device.uuid)
        trend = filling(time, value, size.last if size is not None and len(size) else float(value[-1]) + growth)
        if trend is None or growth < self.grown or growth < self.share * value[0] or fallen > self.pullback:
            return ()
        span = minutes(float(time[-1] - time[0]))
        return (
            Finding(
                f"rank {rank.info.key.rank} holds {gigabytes(growth)} more on GPU {device.gpu or device.uuid} "
                f"than {span} ago, {gigabytes(float(value[-1]))} in all",
                step=rank.step,
                time=now,
                value=growth,
                rank=rank.info.key.rank,
                gpu=device.gpu or None,
                causes=(
                    Cause(
                        "the program keeps tensors from step to step",
                        f"{gigabytes(60 * trend.rate)}/min through {span}, at most {fallen:.1%} given back in between"
                        + (f"; full in {minutes(trend.seconds)}" if size is not None else ""),
                        "look for losses that are summed without .item() or .detach(), lists that grow, hooks that "
                        "keep their inputs; torch.cuda.memory._record_memory_history() shows who allocated",
                    ),
                    Cause(
                        "inputs of ever new shapes fragment the allocator's cache",
                        "reserved memory grows and allocated does not, if it is this",
                        "pad to a few lengths, or set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
                    ),
                ),
            ),
        )


def _held(node: Node, rank: Rank, device: Device, now: float) -> Series | None:
    key = rank.info.key
    for series in (
        node.window("gpu_process_memory_bytes", device.gpu, device.uuid, key.run, str(key.rank)),
        node.window("gpu_memory_used_bytes", device.gpu, device.uuid),
        node.window("mig_memory_used_bytes", device.gpu, device.uuid),
    ):
        if fresh(series, now):
            return series
    return None


def _time_of_step(rank: Rank, steps: int) -> float:
    """Return when the rank had made so many steps since its start, or the oldest time that is known."""
    times, numbers = rank.step_seconds.time, rank.step_seconds.step
    if not len(times):
        return float("inf")
    first = int(np.searchsorted(times, rank.restarts[-1][2])) if rank.restarts else 0
    begin = int(numbers[-1]) - steps_of_attempt(rank)
    return float(times[min(first + int(np.searchsorted(numbers[first:], begin + steps)), len(times) - 1)])
