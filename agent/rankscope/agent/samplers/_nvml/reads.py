"""The ways in which a value is read from NVML: a call, a field, a profiling metric.

What is read is multiplied by `scale` and divided by `per`, which leaves 41 % at 0.41.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from rankscope.agent.samplers._nvml.card import Card

Argument: TypeAlias = "int | str"
"""A number, or the name of one of nvidia-ml-py's constants: a name that it lacks makes the value unsupported."""

ALL_LINKS = 0xFFFFFFFF
MODULE = 1  # NVML_POWER_SCOPE_MODULE


@dataclass(frozen=True, slots=True)
class Call:
    """What a function returns for a device: itself, an attribute or item of it, or whether a bit of it is set."""

    function: str
    arguments: tuple[Argument, ...] = ()
    part: str | int | None = None  # attribute or index
    bit: int = 0
    per: float = 1.0
    scale: float = 1.0

    def read(self, card: Card) -> float | None:
        got: Any = card.call(self.function, *self.arguments)
        if isinstance(self.part, str):
            got = getattr(got, self.part)
        elif isinstance(self.part, int):
            got = got[self.part]
        value = card.number(got)
        if value is None or not self.bit:
            return value
        return float(bool(int(value) & self.bit))

    def __str__(self) -> str:
        arguments = ", ".join(str(argument) for argument in self.arguments)
        part = f".{self.part}" if isinstance(self.part, str) else f"[{self.part}]" if self.part is not None else ""
        return f"{self.function}({arguments}){part}{f' & {self.bit:#x}' if self.bit else ''}"


@dataclass(frozen=True, slots=True)
class Field:
    """A field value (nvmlDeviceGetFieldValues); all fields of a device are read in one call."""

    name: str
    scope: int = 0
    per: float = 1.0
    scale: float = 1.0

    def read(self, card: Card) -> float | None:
        return card.field(self)

    def __str__(self) -> str:
        return self.name.removeprefix("NVML_") + (" of the module" if self.scope == MODULE else "")


@dataclass(frozen=True, slots=True)
class Gpm:
    """A GPU performance monitoring metric, between this collection and the one before: Hopper and later."""

    name: str
    per: float = 1.0
    scale: float = 1.0

    def read(self, card: Card) -> float | None:
        return card.gpm(self)

    def __str__(self) -> str:
        return f"nvmlGpmMetricsGet({self.name.removeprefix('NVML_GPM_METRIC_')})"


@dataclass(frozen=True, slots=True)
class Links:
    """How many NVLinks are up."""

    per: float = 1.0
    scale: float = 1.0

    def read(self, card: Card) -> float | None:
        return card.links_up()

    def __str__(self) -> str:
        return "nvmlDeviceGetNvLinkState of each link"


Read: TypeAlias = "Call | Field | Gpm | Links"
