"""Renders samples as Prometheus' text format or OpenMetrics, within a budget of series."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import exposition
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample as Line

from rankscope.agent.model import Histogram, Metric, Sample
from rankscope.agent.runs.readings import Selection

PREFIX = "rankscope_"
_SUFFIX = {"counter": "_total", "info": "_info"}

BUDGET, DUPLICATE, MALFORMED = "series_budget", "duplicate_series", "bad_sample"
REASONS = (BUDGET, DUPLICATE, MALFORMED)


@dataclass
class Prometheus:
    """Answers Prometheus' scrapes at `/metrics`: every sample, prefixed `rankscope_` and labelled with the host.

    A page never exceeds `series_budget` series and is never broken: what does not fit in, comes twice or contradicts
    its family is left out and counted. What comes first in `render`'s samples is refused last.
    """

    series_budget: int = 20_000
    hostname: str = ""  # "": the agent's
    values: list[str] = field(default_factory=lambda: ["*"])  # scalars of the users' own that are exported, as patterns
    values_per_run: int = 32
    series: int = field(default=0, init=False)  # on the newest page
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0), init=False)  # since the start

    def __post_init__(self) -> None:
        if self.series_budget < 1:
            raise ValueError("series_budget must be at least 1")

    @property
    def selection(self) -> Selection:
        """Which scalars without a metric of their own are exported."""
        return Selection(tuple(self.values), self.values_per_run)

    def render(self, samples: Iterable[Sample], accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type, for the header `Accept` of a scrape."""
        families = self._families(samples)
        encode, content_type = exposition.choose_encoder(accept)
        return encode(_Page(families)), content_type

    def _families(self, samples: Iterable[Sample]) -> list[Family]:
        families: dict[str, _Family] = {}
        self.series = 0
        for metric, value, labels in samples:
            family = families.get(metric.name)
            if family is None:
                family = families[metric.name] = _Family(metric, self.hostname or os.uname().nodename)
            elif family.metric is not metric and not family.same(metric):
                self.refused[MALFORMED] += 1
                continue
            if len(labels) != len(metric.labels) or isinstance(value, Histogram) != (metric.kind == "histogram"):
                self.refused[MALFORMED] += 1
                continue
            size = len(value.bounds) + 3 if isinstance(value, Histogram) else 1
            if labels in family.seen:
                self.refused[DUPLICATE] += size
            elif self.series + size > self.series_budget:
                self.refused[BUDGET] += size
            else:
                self.series += size
                family.add(labels, value)
        return [family.family for family in families.values() if family.seen]


class _Family:
    """One metric with its series, as prometheus-client knows it."""

    def __init__(self, metric: Metric, hostname: str) -> None:
        self.metric = metric
        suffix = _SUFFIX.get(metric.kind, "")
        name = PREFIX + metric.name.removesuffix(suffix)
        # OpenMetrics wants a family with a unit to be named after it.
        unit = "seconds" if metric.unit == "s" else metric.unit
        unit = unit if unit and name.endswith("_" + unit) else ""
        self.family = Family(name, metric.help, metric.kind, unit)
        self.seen: set[tuple[str, ...]] = set()
        self._line_name = name + suffix
        self._name = name
        self._hostname = _text(hostname)

    def same(self, metric: Metric) -> bool:
        """Tell whether another source's row is of this family, in its own words or not."""
        return (metric.kind, metric.labels) == (self.metric.kind, self.metric.labels)

    def add(self, labels: tuple[str, ...], value: float | Histogram) -> None:
        self.seen.add(labels)
        named = {"hostname": self._hostname}
        for label, text in zip(self.metric.labels, labels, strict=True):
            named[label] = _text(text)
        if isinstance(value, Histogram):
            self.family.samples.extend(self._buckets(named, value))
        else:
            self.family.samples.append(Line(self._line_name, named, value))

    def _buckets(self, labels: dict[str, str], histogram: Histogram) -> Iterator[Line]:
        count = 0
        for bound, counted in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
            count += counted
            yield Line(
                f"{self._name}_bucket", {**labels, "le": "+Inf" if bound == math.inf else repr(float(bound))}, count
            )
        yield Line(f"{self._name}_count", labels, count)
        yield Line(f"{self._name}_sum", labels, histogram.sum)


class _Page:
    """What prometheus-client's encoders ask of a registry."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def _text(value: str) -> str:
    """Return `value` as something that can be written: half characters become `?`."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
