"""One row, one metric: a sampler's table of metrics, each with the way in which it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from rankscope.agent.model import Metric, Sample

Source = TypeVar("Source")
Thing = TypeVar("Thing")

Labelled: TypeAlias = "Iterator[tuple[tuple[str, ...], float]]"
"""Values with their label values, in the order of the metric's labels."""

Values: TypeAlias = "float | Iterable[tuple[tuple[str, ...], float]] | None"
"""One value without labels, several with theirs, or none."""


@dataclass(frozen=True, slots=True)
class Row(Generic[Source]):
    """A metric and how it is read from what the sampler looks at."""

    metric: Metric
    read: Callable[[Source], Values]


def each(things: Iterable[tuple[tuple[str, ...], Thing]], read: Callable[[Thing], float | None]) -> Labelled:
    """Yield what is read of each of several things, with their label values; one that fails costs only itself."""
    for labels, thing in things:
        try:
            value = read(thing)
        except (OSError, ValueError, LookupError):
            continue
        if value is not None:
            yield labels, value


def metrics(rows: Iterable[Row[Source]]) -> tuple[Metric, ...]:
    return tuple(row.metric for row in rows)


def collect(rows: Iterable[Row[Source]], source: Source) -> Iterator[Sample]:
    """Yield what the rows read. What cannot be read, or not be understood, costs its own row only."""
    for row in rows:
        try:
            values = row.read(source)
            if values is None:
                continue
            if isinstance(values, (int, float)):
                yield Sample(row.metric, float(values))
                continue
            for labels, value in values:
                yield Sample(row.metric, float(value), labels)
        except (OSError, ValueError, LookupError):
            continue
