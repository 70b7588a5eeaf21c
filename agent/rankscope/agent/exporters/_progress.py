"""What of a rank is safe: a small file beside the event file, replaced as a whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from rankscope.agent.runs.folder import replace_file

REMEMBERED = 200  # sessions of one rank; one that has said nothing for so many restarts does not come back


@dataclass(slots=True)
class Progress:
    """How far an event file goes, and which records of which session are in it."""

    host: str  # whose file it is, as in the names of the files
    file: str  # the event file's name
    length: int = 0  # bytes that count; what lies behind them was never acknowledged
    sessions: dict[str, int] = field(default_factory=dict[str, int])  # last safe sequence number by session
    pieces: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])  # what is incomplete
    newest: tuple[int, float, str] = (-1, 0.0, "")  # attempt, start and name of the newest session
    ending: int = -1  # where the record of the session's end begins; -1: not yet written
    config: str = ""  # digest of the configuration that was written last

    @staticmethod
    def path(folder: Path, host: str) -> Path:
        return folder / f"progress.{host}.json"

    def save(self, folder: Path) -> None:
        """Replace the file on disk, so that it survives the machine's crash too. Raises OSError."""
        while len(self.sessions) > REMEMBERED:
            del self.sessions[next(iter(self.sessions))]
        replace_file(self.path(folder, self.host), json.dumps(asdict(self)), sync=True)


def load(folder: Path, host: str, session: str) -> Progress | None:
    """Return what is known of a rank, or None.

    A session speaks to one agent at a time. So the file that knows the session is the one to go on with, even when
    the agent goes by another host name by now (a container that was made anew); else it is this host's own.
    """
    own: Progress | None = None
    for name in sorted(os.listdir(folder)):
        if not (name.startswith("progress.") and name.endswith(".json")):
            continue
        found = _read(folder / name)
        if found is None:
            continue
        if session in found.sessions:
            return found
        if found.host == host:
            own = found
    return own


def _read(path: Path) -> Progress | None:
    try:
        known = cast("dict[str, object]", json.loads(path.read_text()))
        progress = Progress(**known)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        progress.newest = cast("tuple[int, float, str]", tuple(progress.newest))
    except (ValueError, TypeError):
        return None
    return progress if path.name == f"progress.{progress.host}.json" and "/" not in progress.file else None
