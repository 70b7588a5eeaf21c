"""The CPUs are at their limit while the GPU waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, Finding, FloatArray, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._causes import slow
from rankscope.agent.rules._causes.around import Around
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.state import Node, Rank, Run


@dataclass(eq=False)
class HostBottleneck:
    """The host holds the GPU up: the CPU cores are busy above `cpu` while the GPU of a training rank is below `gpu`.

    Both are means over the last `window` seconds.

    Needs the CPU sampler (`system_cpu_seconds_total`) and the GPU sampler (`gpu_utilization_ratio`).

    Defaults: SageMaker's CPUBottleneck takes 0.9 for the CPU and 0.1 for the GPU in half of the samples; a GPU at 0.1
    is an extreme, so `gpu` is 0.7, as in its LowGPUUtilization. `window` 60 s.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("system_cpu_seconds_total", "gpu_utilization_ratio")
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    cpu: float = 0.9
    gpu: float = 0.7
    window: Seconds = 60.0

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None
        busy = cpu_busy(node, now - self.window)
        if busy is None:
            return Incomplete("the CPUs were not sampled for long enough")
        devices = Devices(node)

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            if rank.state(now) != "running" or rank.step is None:
                return ()
            device = devices.of(rank)
            series = node.window("gpu_utilization_ratio", device.gpu, device.uuid) if device is not None else None
            if device is None or series is None:
                return Incomplete("the utilisation of this rank's GPU is not known")
            recent = series.value[series.time >= now - self.window]
            mean = float(np.mean(recent)) if len(recent) >= 5 else 1.0
            if busy < self.cpu or mean > self.gpu:
                return ()
            here = Around(node, run, rank, rank.step, now)
            evidence = f"the CPUs are busy {busy:.0%} of the time, GPU {device.gpu} {mean:.0%}"
            fix = "fewer or lighter loader workers, torch.set_num_threads, more cores; find what else runs on the node"
            causes = [slow.data_loading(here), Cause("the host has too few CPU cores for this job", evidence, fix)]
            return (
                Finding(
                    f"CPUs are busy {busy:.0%} and GPU {device.gpu} only {mean:.0%} of the time",
                    rank.step,
                    now,
                    busy,
                    rank.info.key.rank,
                    device.gpu,
                    causes=tuple(cause for cause in causes if cause is not None),
                ),
            )

        return each_rank(run.ranks.values(), judge)


def cpu_busy(node: Node, since: float) -> float | None:
    """Return the share of CPU time that was not idle since a moment, or None where it was not sampled since then."""
    total = idle = 0.0
    for labels, series in node.windows("system_cpu_seconds_total"):
        if not len(series) or series.time[0] > since:
            return None
        spent = _grown(series.time, series.value, since)
        total += spent
        if labels and labels[-1] in ("idle", "iowait"):
            idle += spent
    return 1 - idle / total if total > 0 else None


def _grown(time: FloatArray, value: FloatArray, since: float) -> float:
    start = int(np.searchsorted(time, since))
    return float(value[-1] - value[min(start, len(value) - 1)])
