"""Which alert makes which others needless: a declared table, as Alertmanager's inhibit rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inhibition:
    """While `source` fires, `targets` whose `equal` labels are the same stay silent. `why` is for people to read."""

    source: str
    targets: frozenset[str]
    equal: tuple[str, ...]
    why: str

    def mutes(self, source: Mapping[str, str], target: Mapping[str, str]) -> bool:
        """Tell whether one alert, by its labels, makes another one needless. A missing label equals an empty one."""
        return (
            source["alertname"] == self.source
            and target["alertname"] in self.targets
            and all(source.get(label, "") == target.get(label, "") for label in self.equal)
        )


_RUN = ("project", "run")

INHIBITIONS: tuple[Inhibition, ...] = (
    Inhibition(
        "LossNaN",
        frozenset(
            {
                "LossSpike",
                "LossDivergence",
                "LossPlateau",
                "LossOscillation",
                "Overfitting",
                "GradientExplosion",
                "GradientVanishing",
                "UpdateRatioOutOfRange",
                "DeadActivations",
                "SaturatedActivations",
            }
        ),
        _RUN,
        "once the loss is not a number, nothing computed from it means anything",
    ),
    Inhibition(
        "LossDivergence",
        frozenset({"LossSpike", "LossPlateau", "LossOscillation", "Overfitting"}),
        _RUN,
        "a loss that runs away also spikes and no longer falls",
    ),
    Inhibition(
        "RankOutOfMemory",
        frozenset({"RankCrashed", "TrainingStalled", "GpuMemoryPressure", "ThroughputDrop", "LowGpuUtilization"}),
        _RUN,
        "the crash and the standstill are the memory's doing",
    ),
    Inhibition(
        "RankCrashed",
        frozenset({"TrainingStalled", "Straggler", "ThroughputDrop", "LowGpuUtilization", "DataLoaderBottleneck"}),
        _RUN,
        "the others wait for the rank that is gone",
    ),
    Inhibition(
        "TrainingStalled",
        frozenset({"Straggler", "ThroughputDrop", "LowGpuUtilization", "DataLoaderBottleneck", "HostBottleneck"}),
        _RUN,
        "where nothing moves, nothing is merely slow",
    ),
    Inhibition(
        "DataLoaderBottleneck",
        frozenset({"LowGpuUtilization", "ThroughputDrop"}),
        _RUN,
        "the GPUs idle because they wait for data",
    ),
    Inhibition(
        "GpuHot",
        frozenset({"GpuThrottled"}),
        ("hostname", "gpu"),
        "the clocks are cut because the card is hot",
    ),
)
