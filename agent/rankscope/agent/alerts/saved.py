"""What the alert engine remembers over a restart."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from rankscope.agent.alerts import store
from rankscope.agent.alerts.alert import Alert, Key
from rankscope.agent.component import Notification

log = logging.getLogger(__name__)

VERSION = 1


@dataclass(slots=True)
class Saved:
    """The engine's state: alerts that are open, or over but not announced as such; when groups were last announced;
    when alerts fired lately; and notifications that were made but perhaps not taken over by the queues."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="strings")

    version: int = VERSION
    open: list[Alert] = field(default_factory=list[Alert])
    ended: list[Alert] = field(default_factory=list[Alert])
    past: list[Alert] = field(default_factory=list[Alert])
    groups: list[tuple[Key, float]] = field(default_factory=list[tuple[Key, float]])
    firings: list[tuple[Key, list[float]]] = field(default_factory=list[tuple[Key, list[float]]])
    handed: list[Notification] = field(default_factory=list[Notification])


_ADAPTER = TypeAdapter(Saved)


def load(path: Path | None) -> Saved:
    """Return what was saved, or a fresh state; a file that cannot be read is set aside."""
    if path is None or not path.exists():
        return Saved()
    try:
        saved = _ADAPTER.validate_json(path.read_bytes())
        if saved.version != VERSION:
            raise ValueError(f"version {saved.version}")
    except (OSError, ValueError) as error:
        store.set_aside(path, type(error).__name__)
        return Saved()
    return saved


def save(path: Path, saved: Saved) -> None:
    """Replace what was saved. Raises OSError."""
    store.replace(path, _ADAPTER.dump_json(saved))
