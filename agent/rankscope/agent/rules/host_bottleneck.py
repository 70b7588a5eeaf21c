"""The CPUs are at their limit while the GPU waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._causes import slow
from rankscope.agent.rules._causes.around import Around
from rankscope.agent.rules._cores import cores
from rankscope.agent.rules._pauses import pauses
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.rules._utilization import utilization
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run

_MACHINE = (
    "the CPUs",
    "the host has too few CPU cores for this job",
    "fewer or lighter loader workers, torch.set_num_threads, more cores; find what else runs on the node",
)
_GROUP = (
    "the job may use too few of the host's CPU cores",
    "raise the CPU limit of the container or job (Slurm: --cpus-per-task), or take fewer loader workers and threads",
)


@dataclass(eq=False)
class HostBottleneck:
    """The host holds the GPU up: the CPU cores are busy above `cpu` while the GPU of a training rank is below `gpu`.

    Both are means over the last `window` seconds, through all of which the rank made steps: whoever compiles, loads or
    evaluates may need all cores. They are the machine's, or where the rank is limited to fewer, by its control group
    or by what it is bound to, and those are used up, those.

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
        devices = Devices(node)

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            if rank.state(now) != "running" or rank.step is None:
                return ()
            if not len(rank.step_seconds) or rank.step_seconds.time[0] > now - self.window:
                return Incomplete("the run has not made steps for long enough")
            if any(end > now - self.window for _, end in pauses(rank, now)):
                return ()
            here = cores(node, rank, now - self.window)
            if here is None:
                return Incomplete("the CPUs were not sampled for long enough")
            device = devices.of(rank)
            series = utilization(node, device)
            if device is None or series is None:
                return Incomplete("the utilisation of this rank's GPU is not known")
            recent = series.value[series.time >= now - self.window]
            mean = float(np.mean(recent)) if len(recent) >= 5 else 1.0
            if here.busy < self.cpu or mean > self.gpu:
                return ()
            around = Around(node, run, rank, rank.step, now)
            which, cause, fix = _MACHINE
            if here.limited:
                which, cause, fix = f"the {here.number:.3g} CPUs of the rank's control group", *_GROUP
            evidence = f"{which} are busy {here.busy:.0%} of the time, GPU {device.gpu} {mean:.0%}"
            causes = [slow.data_loading(around), Cause(cause, evidence, fix)]
            return (
                Finding(
                    f"{which[0].upper()}{which[1:]} are busy {here.busy:.0%} and GPU {device.gpu} only {mean:.0%} of "
                    "the time",
                    rank.step,
                    now,
                    here.busy,
                    rank.info.key.rank,
                    device.gpu,
                    causes=tuple(cause for cause in causes if cause is not None),
                ),
            )

        return each_rank(run.ranks.values(), judge)
