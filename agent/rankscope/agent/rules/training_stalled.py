"""A run that should make steps makes none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from rankscope.agent.model import Cause, Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._causes import hardware
from rankscope.agent.rules._causes.around import Around, names
from rankscope.agent.rules._ranks import each_rank
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class TrainingStalled:
    """No step has ended for far longer than any step before took, and the rank has not said that it would.

    The limit is `factor` times the longest interval between the last 512 steps, which holds the evaluations and
    checkpoints among them, and at least `least`. While a rank says that it evaluates or saves (`phase()`), the limit is
    at least `announced`, and until what one announced by `expect()` none is stalled: the others wait for it. Before the
    first steps there is nothing to compare with: `first`. What ranks on other nodes say is not heard here: while those
    of this node stand alike, they may wait for a checkpoint over there, and the limit is at least `elsewhere`. A rank
    that has ended is another rule's matter.

    Needs the time of steps. Uses heartbeats, phases and the GPUs' utilisation and power.

    Defaults: NVRx waits 5 times the longest interval seen; NCCL gives up after 10 minutes; SageMaker takes 30 minutes,
    and 20 for the first step. `factor` 5, `least` 60 s, `first` 20 min, `announced` 30 min, `elsewhere` 5 min. Severity
    critical.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("step",)
    severity: Severity = "critical"
    for_: Span = field(default_factory=Span)
    factor: float = 5.0
    least: Seconds = 60.0
    first: Seconds = 1200.0
    announced: Seconds = 1800.0
    elsewhere: Seconds = 300.0

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None
        alive = [rank for rank in run.ranks.values() if rank.state(now) not in ENDED]
        expected = any(now <= rank.expect_until for rank in alive)
        announced = any(rank.heartbeat is not None and rank.heartbeat.phase in ("eval", "checkpoint") for rank in alive)
        least = self.elsewhere if _unheard(run, now) else self.least

        def judge(rank: Rank) -> tuple[Finding, ...] | Incomplete:
            if rank.state(now) in ENDED:
                return ()
            since = rank.last_step_time if rank.step is not None else run.started
            if math.isnan(since) or math.isnan(now):
                return Incomplete("the record has no clock")
            longest, still = _longest(rank), now - since
            limit = max(least, self.first if longest is None else self.factor * longest)
            if still <= (max(limit, self.announced) if announced else limit) or expected:
                return ()
            step = rank.step if rank.step is not None else 0
            before = " since the start" if longest is None else f": the longest before took {duration(longest)}"
            summary = f"no step for {duration(still)}{before}"
            here = Around(node, run, rank, step, since)
            return (Finding(summary, step, now, still, rank.info.key.rank, causes=_causes(here, now)),)

        return each_rank(run.ranks.values(), judge)


ENDED = ("finished", "failed")
WARM = 6  # ends of steps before their intervals are compared with
PLACES = {"data": 0, "forward": 1, "forward_backward": 1, "backward": 2, "optimizer": 3}  # of phases within a step


def _longest(rank: Rank) -> float | None:
    """Return the longest interval between recent steps, s, or None while there are too few to compare with."""
    ends = rank.step_seconds.time[-512:]  # of steps, or of every k-th where only that is logged
    return float(np.max(np.diff(ends))) if len(ends) >= WARM else None


def _unheard(run: Run, now: float) -> bool:
    """True where the one that is waited for can be on another node: nobody here is behind, or gone."""
    elsewhere = len(run.ranks) < run.info.world_size
    return elsewhere and not any(rank.state(now) in ENDED for rank in run.ranks.values()) and not _behind(run)[0]


def _causes(here: Around, now: float) -> tuple[Cause, ...]:
    behind, how = _behind(here.run)
    waits = bool(behind) and here.rank.info.key.rank not in behind
    found = [
        hardware.fault(here),
        _others(here, now, how),
        _elsewhere(here, now),
        _spinning(here, now),
        None if waits else _phase(here),
        _idle(here),
    ]
    return tuple(cause for cause in found if cause is not None)


def _others(here: Around, now: float, how: str) -> Cause | None:
    """One rank is behind: the others wait for it in a collective."""
    fix = (
        "look at its stacks (rankscope stacks) and at the end of its log; the ranks that wait show only the collective"
    )
    ended = sorted(n for n, rank in here.run.ranks.items() if rank.state(now) in ENDED) if here.run is not None else []
    if ended:
        return Cause("a rank has ended and the others wait for it", f"{names(ended)} ended", fix)
    return Cause("the others wait for one rank", how, fix) if how else None


def _elsewhere(here: Around, now: float) -> Cause | None:
    """All ranks of this node wait alike, and the run has more of them."""
    run = here.run
    if run is None or not _unheard(run, now):
        return None
    return Cause(
        "a rank on another node holds this one up",
        f"{len(run.ranks)} of {run.info.world_size} ranks are on this node, and none of them is behind the others",
        "see what the agents of the other nodes say, and which node's ranks are at the lowest step (Grafana: ranks, "
        "Steps behind the fastest rank)",
    )


def _behind(run: Run | None) -> tuple[list[int], str]:
    """Return the ranks that are not as far as the others, by step, else by phase within it, and how that shows."""
    ranks = run.ranks if run is not None else {}
    steps = {number: rank.step or 0 for number, rank in ranks.items()}
    if behind := _lowest(steps):
        return behind, f"{names(behind)} stands at step {min(steps.values())}, the others at {max(steps.values())}"
    phases = {number: rank.heartbeat.phase for number, rank in ranks.items() if rank.heartbeat is not None}
    places = {number: PLACES[phase] for number, phase in phases.items() if phase in PLACES}
    if len(set(steps.values())) == 1 and len(places) == len(ranks) and (behind := _lowest(places)):
        beyond = max(phases, key=places.__getitem__)
        return behind, f"{names(behind)} did not get beyond {phases[behind[0]]}, the others are in {phases[beyond]}"
    return [], ""


def _lowest(places: dict[int, int]) -> list[int]:
    """Return who stands at the lowest place; nobody where all stand there, or most."""
    lowest = min(places.values(), default=0)
    behind = sorted(number for number, place in places.items() if place == lowest)
    return behind if 2 * len(behind) <= len(places) else []


def _spinning(here: Around, now: float) -> Cause | None:
    """The GPU spins in a collective. Contradicted by a GPU that is idle."""
    busy = _utilization(here, now)
    if busy is None or busy < 0.9:
        return None
    evidence = f"the GPU is busy {busy:.0%} of the time and no step ends"
    device = Devices(here.node).of(here.rank)
    if device is not None:
        power = here.node.window("gpu_power_watts", device.gpu, device.uuid)
        limit = here.node.window("gpu_power_limit_watts", device.gpu, device.uuid)
        if power is not None and limit is not None and len(power) and len(limit):
            draw = float(np.median(power.value[-10:]))
            if draw > 0.5 * limit.last:
                return None
            evidence += f", at {draw:.0f} of {limit.last:.0f} W"
    return Cause(
        "a collective waits for a rank that does not come",
        evidence,
        "look at the stacks of all ranks (rankscope stacks): the one outside of the collective is the "
        "culprit; set TORCH_NCCL_TRACE_BUFFER_SIZE=2000",
    )


def _idle(here: Around) -> Cause | None:
    """The rank waits on the host: data, storage, a lock. Contradicted by a busy GPU."""
    busy = _utilization(here, here.time + 1)
    if busy is not None and busy >= 0.5:
        return None
    evidence = "the GPU is idle" if busy is not None else "the step ended and no other one did since"
    return Cause(
        "the process waits on the host: for data, storage, a lock or the network",
        evidence,
        "look at its stacks (rankscope stacks); check the loader's workers and the file system",
    )


def _phase(here: Around) -> Cause | None:
    heartbeat = here.rank.heartbeat
    if heartbeat is None or not heartbeat.phase:
        return None
    return Cause(
        f"the rank is stuck in {heartbeat.phase}",
        f"its last sign of life came from the phase {heartbeat.phase} of step {heartbeat.step}",
        f"look at what {heartbeat.phase} does there (rankscope stacks)",
    )


def _utilization(here: Around, now: float) -> float | None:
    """Return the GPU's utilisation since the last step, 0 to 1, or None where it is not known."""
    device = Devices(here.node).of(here.rank)
    series = here.rank.role("gpu_utilization")
    if device is not None:
        series = here.node.window("gpu_utilization_ratio", device.gpu, device.uuid) or series
    if series is None:
        return None
    recent = series.value[series.time > here.time][-10:]
    if not len(recent):
        return None
    return float(np.mean(recent)) / (100 if float(series.value.max()) > 1 else 1)


def duration(seconds: float) -> str:
    """Return a time as people say it: `45 s`, `12 min`, `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
