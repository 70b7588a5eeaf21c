"""An agent's page of metrics, read as any scraper would read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Page:
    """One scrape: values by metric, each with its labels."""

    series: Mapping[str, list[tuple[dict[str, str], float]]] = field(
        default_factory=dict[str, list[tuple[dict[str, str], float]]]
    )

    def get(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of the series of a metric (without its prefix) that carry these labels."""
        return [
            (its, value)
            for its, value in self.series.get(f"rankscope_{name}", ())
            if all(its.get(key) == wanted for key, wanted in labels.items())
        ]

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of the first such series, or None."""
        found = self.get(name, **labels)
        return found[0][1] if found else None


def scrape(url: str) -> Page:
    """Return the page of the agent at `url`; an empty one where it does not answer."""
    try:
        text = httpx.get(f"{url}/metrics", timeout=2.0).text
    except httpx.TransportError:
        return Page()
    series: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series.setdefault(sample.name, []).append((sample.labels, sample.value))
    return Page(series)
