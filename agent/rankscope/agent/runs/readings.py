"""Reads from the state of runs and ranks what is more than one field."""

from __future__ import annotations

import fnmatch
import statistics
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from rankscope.agent.model import End, Histogram
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run

Readings: TypeAlias = Iterator[tuple[tuple[str, ...], float | Histogram]]
"""Label values beyond those of the run and the rank, and the value."""

STEP_WINDOW = 50  # steps whose median stands for a rank's pace
GROUPS = 4  # learning rates of a rank that are exported
# what watch() logs by layer: a pattern must ask for it
DETAILS = ("grad_norm/", "grad_norm_share/", "gradients/", "weights/", "activations/", "memory/")
PHASES = 16  # phases of a rank that are exported by name; what comes later counts as "other"

# Roles that have a metric of their own; all other names go to train_value.
OWN_METRIC = frozenset(
    {
        "loss",
        "val_loss",
        "lr",
        "grad_norm",
        "grad_norm_share",
        "grad_scale",
        "epoch",
        "update_ratio",
        "samples",
        "tokens",
        "skipped_steps",
        "flops_utilization",
        "gpu_memory_allocated",
        "gpu_memory_peak",
    }
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which scalars without a metric of their own are exported as `train_value`: patterns, and how many a run."""

    names: tuple[str, ...] = ("*",)
    limit: int = 32

    def of(self, run: Run) -> Mapping[str, str]:
        """Return the chosen series of a run: exported name by logged name, in the order in which they appeared."""
        chosen: dict[str, str] = {}
        for _, rank in sorted(run.ranks.items()):
            for name in rank.series:
                if len(chosen) == self.limit:
                    return chosen
                if name in chosen or not self._allows(name):
                    continue
                role = rank.roles.of(name)
                if role not in OWN_METRIC and parameter_group(rank, name) is None:
                    chosen[name] = role or name
        return chosen

    def _allows(self, name: str) -> bool:
        if "*" in self.names and not name.startswith(DETAILS):
            return True
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names if pattern != "*")


@dataclass(frozen=True, slots=True)
class Context:
    """One look at one run: what its readings share."""

    now: float
    devices: Devices
    values: Mapping[str, str]  # exported name by logged name
    stragglers: Collection[tuple[str, int]] | None  # run and rank; None: nobody judges
    medians: Mapping[int, float] = field(default_factory=dict[int, float])  # seconds a step, by rank


def sampled(node: Node) -> set[tuple[str, str, str]]:
    """Return what samplers tell of ranks, because they see more than the rank says: metric, run, rank."""
    return {
        (sample.metric.name, sample.labels[0], sample.labels[1])
        for samples in tuple(node.samples.values())
        for sample in samples
        if sample.metric.labels[:2] == ("run", "rank")
    }


def medians(run: Run) -> dict[int, float]:
    """Return the median step time of each rank over its newest steps, in seconds."""
    return {
        number: statistics.median(rank.step_seconds.value[-STEP_WINDOW:].tolist())
        for number, rank in run.ranks.items()
        if len(rank.step_seconds)
    }


def parameter_group(rank: Rank, name: str) -> str | None:
    """Return the parameter group whose learning rate a series is (`lr/group1` → `1`, `lr` → `0`), or None."""
    head, _, tail = name.rpartition("/")
    if head and ("lr" in head.casefold() or "rate" in head.casefold()) and rank.roles.of(head) == "lr":
        return tail.removeprefix("group")
    return "0" if rank.roles.of(name) == "lr" else None


def learning_rates(rank: Rank) -> Readings:
    found: dict[str, float] = {}
    for name, series in rank.series.items():
        group = parameter_group(rank, name)
        if group is not None and len(series) and len(found) < GROUPS:
            found.setdefault(group, series.last)
    for group, rate in found.items():
        yield (group,), rate


def phases(rank: Rank) -> Readings:
    rest = 0.0
    for i, (phase, seconds) in enumerate(rank.phase_seconds.items()):
        if i < PHASES and phase != "other":
            yield (phase,), seconds
        else:
            rest += seconds
    if rest:
        yield ("other",), rest


def values(rank: Rank, chosen: Mapping[str, str]) -> Readings:
    given: set[str] = set()
    for name, exported in chosen.items():
        series = rank.series.get(name)
        if series is not None and len(series) and exported not in given:
            given.add(exported)
            yield (exported,), series.last


def exit_reason(rank: Rank) -> str | None:
    """Return how a rank ended, of a closed set: finished, failed, exception, signal, vanished, unknown."""
    if rank.goodbye is None:
        return None
    end = rank.goodbye.end
    return "failed" if end is End.FINISHED and rank.goodbye.exit_code else end.value


def facts(run: Run) -> tuple[str, ...]:
    """Return the label values of run_info after the run's name."""
    info = run.info
    environment, config = info.environment, info.config
    framework = environment.get("framework") or ("torch" if environment.get("torch") else "")
    model = (
        environment.get("model") or config.get("model") or config.get("model_name") or config.get("model_name_or_path")
    )
    parallelism = environment.get("parallelism") or config.get("parallelism")
    return (
        run.run_id,
        run.project,
        framework,
        model[:80] if isinstance(model, str) else "",
        parallelism[:80] if isinstance(parallelism, str) else "",
        environment.get("user", ""),
        info.job_id,
    )


def target_steps(run: Run) -> float | None:
    """Return the planned number of steps, where the configuration names it."""
    for key in ("max_steps", "total_steps", "num_steps", "num_training_steps", "steps"):
        value = run.info.config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None
