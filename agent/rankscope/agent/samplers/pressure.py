"""How long the node's tasks waited for CPU, memory and disks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.pressure import stalls
from rankscope.agent.samplers._rows import Labelled, Row, collect, metrics

RESOURCES = ("cpu", "memory", "io")


def _stalls(files: Files) -> Labelled:
    for resource in RESOURCES:
        if not files.exists(f"proc/pressure/{resource}"):
            continue  # a kernel without it, or booted with psi=0
        for kind, seconds in stalls(files.text(f"proc/pressure/{resource}")):
            yield (resource, kind), seconds


ROWS: tuple[Row[Files], ...] = (
    Row(
        Metric(
            "system_pressure_seconds_total",
            "counter",
            "Time that tasks stalled; resource=cpu|memory|io, kind=some|full.",
            ("resource", "kind"),
            "s",
            "/proc/pressure",
        ),
        _stalls,
    ),
)


@dataclass
class Pressure:
    """Pressure stall information: the time for which some or all tasks waited for CPU, memory or I/O."""

    interval: Seconds = 5.0
    root: str = "/"

    metrics: ClassVar[tuple[Metric, ...]] = metrics(ROWS)

    def sample(self, node: Node) -> Iterable[Sample]:
        return collect(ROWS, Files(self.root))

    def close(self) -> None:
        """Nothing is held."""
