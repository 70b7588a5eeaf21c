"""What the picture is made of: the agent, its GPUs, runs, ranks and alerts at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Ratios are 0 to 1; None is what the card does not tell."""

    index: str
    name: str
    simulated: bool
    up: bool
    busy: float | None
    memory_used: float | None  # bytes
    memory_size: float | None
    watts: float | None
    watts_limit: float | None
    celsius: float | None
    celsius_slowdown: float | None
    throttled: tuple[str, ...]
    states: Mapping[str, float]  # ratio of the last seconds by state
    ranks: Mapping[str, tuple[int, ...]]  # by run


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank of a run. Times are Unix seconds of the agent's clock."""

    number: int
    state: str  # running, silent, finished, failed
    connected: bool
    exit: str
    gpu: str
    step: float | None
    step_seconds: float | None
    last_step_time: float | None
    last_seen: float | None
    phase: str
    shares: Mapping[str, float]  # ratio of the last steps by phase
    loss: float | None
    loss_curve: tuple[float, ...]
    val_loss: float | None
    lr: float | None
    grad_norm: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run with the ranks that are on this node."""

    id: str
    project: str
    state: str
    last_event: float
    world_size: int
    attempt: int
    target_steps: float | None
    ranks: tuple[Rank, ...]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; `since` and `until` are Unix seconds."""

    name: str
    severity: str
    state: str  # pending, firing, resolved
    silenced: bool
    since: float | None
    until: float | None
    project: str
    run: str
    gpu: str
    ranks: tuple[int, ...]
    summary: str
    cause: str
    evidence: str
    fix: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that the agent said at `time` (Unix seconds of its clock)."""

    time: float
    hostname: str
    version: str
    started: float
    ready: bool
    blind: Mapping[str, str]  # why, by sampler
    dropped: Mapping[str, int]  # by reason
    system: Mapping[str, float]
    gpus: tuple[Gpu, ...]
    runs: tuple[Run, ...]
    alerts: tuple[Alert, ...]  # pending and firing, the gravest first
    resolved: tuple[Alert, ...]  # newest first
