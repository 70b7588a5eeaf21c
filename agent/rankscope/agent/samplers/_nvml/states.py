"""What each second of a GPU was: work, waiting for data, talking to other GPUs, slowed down, idle or dead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rankscope.agent.runs.rank import Rank
from rankscope.agent.samplers._nvml.reading import Instance

State: TypeAlias = Literal["working", "starved", "communicating", "throttled", "idle", "dead"]
STATES: tuple[State, ...] = ("working", "starved", "communicating", "throttled", "idle", "dead")

# A GPU that waits in a collective spins: it looks fully used and draws little more than when idle (NVIDIA/nccl#968:
# ~70 W; NVIDIA-NeMo/Speech#9291: 100 of 700 W).
SPIN_UTILIZATION = 0.9
SPIN_POWER = 0.3  # of the limit
SPIN_TENSOR = 0.02  # with GPM: neither tensor pipe nor memory is at work
SPIN_DRAM = 0.05
_SLOWED = ("hw_thermal", "sw_thermal", "hw_power_brake", "hw_slowdown")
_RECENT = 8  # steps
_SLICES = re.compile(r"(\d+)g\.")  # in the profile of a MIG instance: 1g.10gb, 1c.3g.40gb


@dataclass(frozen=True, slots=True)
class Figures:
    """What the classification needs of a GPU; None where the card does not tell."""

    utilization: float | None
    power: float | None = None  # share of the limit
    tensor: float | None = None
    dram: float | None = None
    slowed: bool = False

    @classmethod
    def of(cls, values: Mapping[tuple[str, str], float]) -> Figures:
        """Read them from a card's values by metric and label value."""
        watts, limit = values.get(("gpu_power_watts", "")), values.get(("gpu_power_limit_watts", ""))
        utilization = values.get(("gpu_utilization_ratio", ""))
        return cls(
            utilization=values.get(("gpu_sm_active_ratio", "")) if utilization is None else utilization,
            power=watts / limit if watts is not None and limit else None,
            tensor=values.get(("gpu_tensor_active_ratio", "")),
            dram=values.get(("gpu_dram_active_ratio", "")),
            slowed=any(values.get(("gpu_throttle_active", reason)) for reason in _SLOWED),
        )

    @classmethod
    def of_instance(cls, values: Mapping[tuple[str, str], float], slowed: bool) -> Figures:
        """Read them from a MIG instance's values; heat and its limits are the whole card's."""
        active = values.get(("mig_engine_active_ratio", ""), values.get(("mig_sm_active_ratio", "")))
        tensor, dram = (values.get((f"mig_{part}_active_ratio", "")) for part in ("tensor", "dram"))
        return cls(active, tensor=tensor, dram=dram, slowed=slowed)

    @property
    def spinning(self) -> bool:
        if self.utilization is None or self.utilization < SPIN_UTILIZATION:
            return False
        if self.tensor is not None and self.dram is not None:
            return self.tensor < SPIN_TENSOR and self.dram < SPIN_DRAM
        return self.power is not None and self.power < SPIN_POWER


def split(figures: Figures, ranks: Sequence[Rank]) -> dict[State, float] | None:
    """Return which part of the last moment was what; the parts sum to 1. None where the card does not tell.

    The time with a kernel on the GPU is one of working, communicating or throttled; the rest is starved as far as its
    ranks wait for data, else idle. A rank that is alone in its run waits for no other: small kernels draw little, too.
    """
    if figures.utilization is None:
        return None
    busy = figures.utilization
    data = max((phase_share(rank, "data") for rank in ranks), default=0.0)
    starved = min(1 - busy, data) if ranks else 0.0
    parts: dict[State, float] = {"starved": starved, "idle": 1 - busy - starved}
    if figures.slowed:
        parts["throttled"] = busy
    elif figures.spinning and (not ranks or any(rank.info.world_size > 1 for rank in ranks)):
        parts["communicating"] = busy
    else:
        talking = min(busy, max((phase_share(rank, "comm") for rank in ranks), default=0.0))
        parts["communicating"], parts["working"] = talking, busy - talking
    return {state: part for state, part in parts.items() if part > 0}


def split_slices(
    slices: int, card: Figures, instances: Iterable[Instance], ranks_of: Callable[[Instance], Sequence[Rank]]
) -> dict[State, float] | None:
    """Return the same for a card that is cut into MIG instances: `slices` in all, those that none has are idle.

    Each GPU instance is what its profiling figures and its ranks tell, and counts with its compute slices; compute
    instances of one GPU instance have their figures together. None where one does not tell: before Hopper NVML gives no
    activity of an instance, and the phases of its ranks say when they wait, but not whether the GPU works meanwhile.
    """
    by_number: dict[int, list[Instance]] = {}
    for each in instances:
        by_number.setdefault(each.gpu_instance, []).append(each)
    whole: dict[State, float] = {}
    used = 0
    for together in by_number.values():
        figures = Figures.of_instance(by_name(together[0].values), card.slowed)
        parts = split(figures, [rank for each in together for rank in ranks_of(each)])
        size = _SLICES.search(together[0].profile)
        if parts is None or size is None:
            return None
        used += int(size[1])
        for state, part in parts.items():
            whole[state] = whole.get(state, 0.0) + part * int(size[1])
    total = max(slices, used)
    whole["idle"] = whole.get("idle", 0.0) + total - used
    return {state: part / total for state, part in whole.items() if part > 0}


def slices_of(name: str) -> int:
    """Return how many compute slices MIG cuts a card into, by the card's name (NVIDIA's MIG user guide)."""
    return 4 if "A30" in name or "RTX PRO" in name else 7


def by_name(values: Iterable[tuple[str, str, float]]) -> dict[tuple[str, str], float]:
    """Return values by metric and label value."""
    return {(name, label): value for name, label, value in values}


def phase_share(rank: Rank, phase: str) -> float:
    """Return the part that a phase has in the rank's last steps, 0 where it does not time its phases.

    By the clock, as rows may be many steps apart, and some phases (checkpoints) are in few of them.
    """
    series, times = rank.phases.get(phase), rank.step_seconds.time[-_RECENT - 1 :]
    if series is None or len(times) < 2:
        return 0.0
    since, passed = float(times[0]), float(times[-1] - times[0])
    share = float(series.value[series.time > since].sum()) / passed if passed > 0 else 0.0
    return min(1.0, share) if math.isfinite(share) else 0.0
