"""Questions that many panels ask, each said once."""

from __future__ import annotations

from boards.panel import Query
from boards.selectors import NODE, RUN


def of_run(how: str, metric: str, word: str = "") -> Query:
    """Return a metric of each run, its ranks taken together by `how`."""
    return Query(f"{how} by (run) ({metric}{{{RUN}}})", "{{run}}" + word)


def on_nodes(metric: str, more: str = "") -> str:
    """Return a metric on the nodes that are chosen."""
    return f"{metric}{{{NODE}{more}}}"


def rate_on_nodes(metric: str, more: str = "") -> str:
    """Return what a counter on the nodes that are chosen grows by in a second."""
    return f"rate({on_nodes(metric, more)}[$__rate_interval])"


def grown(series: str, span: str) -> str:
    """Return what a counter grew by, of which nothing is exported before there is something to count.

    One that appears with a value has no increase (Prometheus cannot know that it began at zero): all of it counts.
    """
    return f"(max_over_time({series}[{span}]) unless {series} offset {span}) or increase({series}[{span}])"
