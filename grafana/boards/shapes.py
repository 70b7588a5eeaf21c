"""The shapes that panels come in, each said once: a board names one, and what is its own."""

from __future__ import annotations

from typing import Any

from boards.panel import Panel, Query

State = tuple[str, str]  # word, colour


def lines(title: str, description: str, *queries: Query, **look: Any) -> Panel:
    """Return lines over time, on an axis that fits them."""
    return Panel(title, description, queries, **look)


def amounts(title: str, description: str, *queries: Query, **look: Any) -> Panel:
    """Return lines over time of what is never below zero: the axis starts there, so that heights compare."""
    return lines(title, description, *queries, minimum=0, **look)


def shares(title: str, description: str, *queries: Query, **look: Any) -> Panel:
    """Return lines over time of parts of a whole, on an axis from 0 to 100 %."""
    return amounts(title, description, *queries, unit="percentunit", maximum=1, **look)


def figure(title: str, description: str, *queries: Query, height: int = 4, **look: Any) -> Panel:
    """Return the newest value in large figures."""
    return Panel(title, description, queries, "stat", height=height, **look)


def bars(title: str, description: str, *queries: Query, **look: Any) -> Panel:
    """Return the newest values as bars beside one another, from zero on."""
    return Panel(title, description, queries, "bars", minimum=0, **look)


def counts(title: str, description: str, *queries: Query, **look: Any) -> Panel:
    """Return how often something happened in the time shown, as bars."""
    return bars(title, description, *queries, width=6, decimals=0, **look)


def states(title: str, description: str, query: Query, off: State, on: State, **look: Any) -> Panel:
    """Return when something was so: `off` is 0, and `on` is 1."""
    words = ((0, *off), (1, *on))
    return Panel(title, description, [query], "timeline", steps=((None, off[1]), (1, on[1])), words=words, **look)


def table(title: str, description: str, *queries: Query, **look: Any) -> Panel:
    """Return one line for each set of labels, with a column for each query that has a name."""
    return Panel(title, description, queries, "table", **look)
