"""What the web application sees of the agent: state to read, and the few things it may ask for."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rankscope.agent.runs.state import Node, Run
from rankscope.agent.telemetry import Telemetry


class Silence(Protocol):
    """A silence of the alert engine."""

    def as_json(self, now: float, /) -> dict[str, object]: ...


class Silences(Protocol):
    """The silences of the alert engine, in the shape of Alertmanager's API."""

    def create(self, body: object, now: float, /) -> Silence:
        """Make or change a silence. Raises ValueError, in one line, when it is wrong, KeyError for an unknown id."""
        ...

    def list(self, now: float, /, *, expired: bool = True) -> Sequence[Silence]: ...

    def expire(self, name: str, now: float, /) -> Silence:
        """End a silence. Raises KeyError when there is none."""
        ...


class Alerts(Protocol):
    """The alert engine."""

    @property
    def silences(self) -> Silences: ...

    def active(self) -> list[dict[str, object]]:
        """Return the alerts that are pending or firing, the gravest first."""
        ...

    def recent(self) -> list[dict[str, object]]:
        """Return the alerts that were resolved last, newest first."""
        ...


class Whereabouts(Protocol):
    """What a rank answered that was asked where it is."""

    def as_json(self) -> dict[str, object]: ...


@dataclass(slots=True)
class View:
    """Everything the web application needs; the agent fills it in. Calls come from the agent's event loop."""

    node: Node
    alerts: Alerts
    telemetry: Telemetry
    runs_dir: Path
    render: Callable[[str], tuple[bytes, str]]  # header `Accept` → page of metrics, content type
    reload: Callable[[], str | None]  # None, or why the new configuration was refused
    ready: Callable[[], bool]
    where: Callable[[Run, Collection[int]], Awaitable[Sequence[Whereabouts]]]  # asks ranks of a run where they are
    now: Callable[[], float] = time.time
