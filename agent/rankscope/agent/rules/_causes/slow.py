"""Why a run is slow, or its GPUs idle."""

from __future__ import annotations

import numpy as np

from rankscope.agent.model import Cause
from rankscope.agent.rules._causes.around import Around, figure
from rankscope.agent.rules._cores import Cores, cores
from rankscope.agent.rules._phases import phases_of
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.series import Series

MUCH = 0.25  # share of the step that is worth naming
THROTTLED = {
    "hw_thermal": "is throttled because it is too hot",
    "sw_thermal": "is throttled because it is too hot",
    "hw_power_brake": "is throttled by the power brake",
    "hw_slowdown": "is slowed down by its hardware",
}


def causes(here: Around) -> tuple[Cause, ...]:
    """Return what may hold a rank up, the largest share of its time first."""
    found = [
        data_loading(here),
        straggler(here),
        throttling(here),
        crowded(here),
        *beside(here),
        host(here),
        small_batch(here),
    ]
    return tuple(cause for cause in found if cause is not None)


def data_loading(here: Around) -> Cause | None:
    """The step waits for data. Contradicted by a data phase that takes little of it."""
    phases = phases_of(here.rank)
    if phases is None or "data" not in phases.seconds or phases.share("data") < MUCH:
        return None
    evidence = (
        f"waiting for data takes {phases.share('data'):.0%} of a step ({figure(phases.seconds['data'])} of "
        f"{figure(phases.step)} s)"
    )
    fixes: list[str] = []
    workers = here.setting("num_workers", "workers")
    if workers is not None:
        evidence += f"; {workers[0]} is {workers[1]}"
    there = _cores(here)
    idle = there.idle if there is not None else None
    if workers is not None and workers[1] == 0:
        fixes.append("load in the background: num_workers above 0")
    elif idle is None or idle > 1:
        fixes.append(
            "raise num_workers"
            + (f" ({idle:.0f} of {there.number:.0f} CPU cores are idle)" if there is not None and idle else "")
        )
    else:
        evidence += "; the CPU cores are busy"
        fixes.append("move work out of the loader: decode and augment ahead of time, or on the GPU")
    pressure = _pressure(here, "io")
    if pressure is not None and pressure > 0.1:
        evidence += f"; tasks wait for storage {pressure:.0%} of the time"
        fixes.append("keep the data on a local disk, in few large files")
    pinned = here.setting("pin_memory")
    if pinned is not None and not pinned[1]:
        fixes.append("set pin_memory=True")
    fixes.append("prefetch more (prefetch_factor, persistent_workers)")
    return Cause("data loading is too slow", evidence, "; ".join(fixes))


_BESIDE = {
    "comm": (
        "communication between the ranks",
        "talk less often (no_sync() while gradients accumulate), and see whether all NVLinks and ports are up",
    ),
    "checkpoint": ("checkpoints", "save less often, in the background (async_save), or to a faster disk"),
}


def beside(here: Around) -> list[Cause]:
    """The step's time goes to what is neither data nor compute, as the phases `comm` and `checkpoint` tell."""
    phases = phases_of(here.rank)
    found: list[Cause] = []
    for name, (cause, fix) in _BESIDE.items():
        if phases is not None and phases.share(name) >= MUCH:
            of = f"{figure(phases.seconds[name])} of {figure(phases.step)} s"
            found.append(Cause(cause, f"the phase {name} takes {phases.share(name):.0%} of a step ({of})", fix))
    return found


def host(here: Around) -> Cause | None:
    """The step's time goes to the host. Contradicted by phases that account for the whole step."""
    phases = phases_of(here.rank)
    if phases is None or phases.open < MUCH:
        return None
    evidence = (
        f"{phases.open:.0%} of a step ({figure(phases.open * phases.step)} of {figure(phases.step)} s) is "
        "in no phase: neither data nor compute"
    )
    if _busy_host(here):
        evidence += "; the CPU cores are busy"
    return Cause(
        "work on the host between the steps",
        evidence,
        "look for logging, .item(), checkpoints or Python loops between the steps; a stack sample of the "
        "rank shows them",
    )


def crowded(here: Around) -> Cause | None:
    """Other work takes the machine's CPU cores. Contradicted by idle cores, and where the run itself fills them."""
    there = _cores(here)
    if here.run is None or there is None or there.limited or there.number is None or there.busy < 0.9:
        return None
    ranks = [s for labels, s in here.node.windows("rank_cpu_seconds_total") if labels[0] == here.run.name]
    rates = [rate for series in ranks if (rate := _rate(series)) is not None]
    if len(rates) < len(here.run.ranks):
        return None
    other = there.busy - sum(rates) / there.number
    if other < MUCH:
        return None
    which = f"the {there.number:.0f} CPU cores are busy {there.busy:.0%} of the time"
    return Cause(
        "other work takes the CPU cores",
        f"{which}, {other:.0%} with what is not of this run",
        "find it with top and move it, or give the training cores of its own (taskset, cpuset)",
    )


def small_batch(here: Around) -> Cause | None:
    """The batch is too small to keep the GPU busy. Contradicted by time spent on all else, or by full GPU memory."""
    phases = phases_of(here.rank)
    if phases is not None and (phases.share("data", *_BESIDE) >= MUCH or phases.open >= MUCH):
        return None
    device = Devices(here.node).of(here.rank)
    if device is None:
        return None
    kind = "mig" if here.node.window("mig_memory_used_bytes", *device) is not None else "gpu"
    used, size = (here.node.window(f"{kind}_memory_{what}_bytes", *device) for what in ("used", "size"))
    if used is None or size is None or not len(used) or not len(size) or used.last > 0.7 * size.last:
        return None
    batch = here.setting("batch_size")
    evidence = f"GPU {device.gpu} holds {used.last / 2**30:.1f} of {size.last / 2**30:.1f} GiB"
    if batch is not None:
        evidence += f"; {batch[0]} is {batch[1]}"
    return Cause(
        "the batch is too small for the GPU",
        evidence,
        "raise the batch size, or fuse small kernels (torch.compile, CUDA graphs)",
    )


def throttling(here: Around) -> Cause | None:
    """The GPU runs at reduced clocks."""
    devices = Devices(here.node)
    device = devices.of(here.rank)
    if device is None:
        return None
    board = devices.board(device)
    for labels, series in here.node.windows("gpu_throttle_active"):
        if labels[:2] != (device.gpu, board) or labels[2] not in THROTTLED or not len(series):
            continue
        share = float(np.mean(series.value[-60:] > 0))
        if share > 0.2:
            return Cause(
                f"GPU {device.gpu} {THROTTLED[labels[2]]}",
                f"{labels[2]} was active in {share:.0%} of the last {min(60, len(series))} samples",
                "check airflow, fans, inlet temperature and the power supply of the node",
            )
    return None


def straggler(here: Around) -> Cause | None:
    """The others wait for one rank."""
    if here.run is None or len(here.run.ranks) < 2:
        return None
    busy: dict[int, float] = {}
    for number, rank in here.run.ranks.items():
        phases = phases_of(rank)
        if phases is not None and "forward" in phases.seconds:
            busy[number] = phases.seconds.get("data", 0.0) + phases.seconds["forward"]
    if len(busy) < 2:
        return None
    slowest = max(busy, key=lambda number: busy[number])
    usual = float(np.median([seconds for number, seconds in busy.items() if number != slowest]))
    step = phases_of(here.rank)
    if step is None or busy[slowest] - usual < 0.1 * step.step:
        return None
    return Cause(
        f"rank {slowest} holds the others up",
        f"rank {slowest} takes {figure(busy[slowest])} s for data and forward, the others {figure(usual)} s",
        f"compare the node, the GPU clocks and the data of rank {slowest} with the others",
    )


def _cores(here: Around) -> Cores | None:
    """Return the cores that the rank may use, as they were over the last minute, or since they are sampled."""
    times = [series.time for _, series in here.node.windows("system_cpu_seconds_total") if len(series)]
    since = max((max(time[0], time[-1] - 60.0) for time in times), default=None)
    return cores(here.node, here.rank, since) if since is not None else None


def _busy_host(here: Around) -> bool:
    there = _cores(here)
    return there is not None and there.busy > 0.9


def _pressure(here: Around, resource: str) -> float | None:
    series = here.node.window("system_pressure_seconds_total", resource, "some")
    return None if series is None else _rate(series)


def _rate(series: Series) -> float | None:
    """Return by how much a counter grew each second of its last minute; None with fewer than two looks."""
    if len(series) < 2:
        return None
    recent = series.time >= series.time[-1] - 60
    value, time = series.value[recent], series.time[recent]
    return float((value[-1] - value[0]) / (time[-1] - time[0])) if len(value) >= 2 and time[-1] > time[0] else None
