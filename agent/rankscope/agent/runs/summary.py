"""A run's summary, `run.json`: who, when, configuration, environment, attempts, state, last and best values."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from rankscope.agent.model import Batch, End, Goodbye, RankInfo
from rankscope.agent.runs.extremes import Extremes, JsonNumber, to_json
from rankscope.agent.runs.folder import replace_file
from rankscope.agent.runs.naming import safe_name
from rankscope.agent.runs.roles import Roles

EVERY = 5.0  # seconds between two writings while nothing ends
ATTEMPTS = 100  # sessions of a rank that are kept
HIGHER_IS_BETTER = {"accuracy", "val_accuracy", "samples_per_second", "tokens_per_second"}
LOWER_IS_BETTER = {"loss", "val_loss"}


class _Best(TypedDict):
    value: float
    step: int


class Summary:
    """What this agent knows of a run, for its folder; values are those of the lowest rank here.

    Only the agent of the job's first node writes `run.json`; others write `node_<hostname>.json` beside it.
    """

    def __init__(self, folder: Path, host: str) -> None:
        self._folder = folder
        self._host = host
        self._path = folder / f"node_{safe_name(host, 'host')}.json"
        self._roles = Roles()
        self._rank = -1
        self._info: RankInfo | None = None
        self._ranks: dict[str, dict[str, object]] = {}
        self._sessions: list[dict[str, object]] = []
        self._extremes = Extremes()
        self._due = 0.0
        self._changed = False

    def begin(self, info: RankInfo) -> None:
        """A session of a rank begins or goes on."""
        if self._info is None:
            if info.node_rank == 0:
                self._path = self._folder / "run.json"
            self._restore()
        if self._info is None or info.key.rank <= self._rank or self._rank < 0:
            if self._rank not in (-1, info.key.rank):
                self._extremes = Extremes()
            self._rank = info.key.rank
            self._info = info
        name = f"{info.session:016x}"
        if not any(session["session"] == name for session in self._sessions):
            self._sessions.append(
                {
                    "session": name,
                    "rank": info.key.rank,
                    "attempt": info.attempt,
                    "hostname": info.hostname,
                    "pid": info.pid,
                    "started": info.started,
                    "ended": None,
                    "end": None,
                }
            )
            del self._sessions[: -ATTEMPTS * max(1, info.local_world_size)]
        known = self._ranks.get(str(info.key.rank))
        if known is None or (info.attempt, info.started) >= (known["attempt"], known["started"]):
            self._ranks[str(info.key.rank)] = {
                "session": name,
                "attempt": info.attempt,
                "started": info.started,
                "hostname": info.hostname,
                "device_uuids": list(info.device_uuids),
                "state": "running",
                "step": known["step"] if known else None,
            }
        self._due = 0.0
        self._changed = True

    def update(self, info: RankInfo, batch: Batch) -> None:
        self._changed = True
        rank = self._ranks[str(info.key.rank)]
        for block in batch.blocks:
            if len(block.step) and not block.late:
                rank["step"] = int(block.step[-1])
            if info.key.rank == self._rank:
                self._extremes.update(block)
        for event in batch.events:
            if isinstance(event, Goodbye):
                self._end(info, event)

    def _end(self, info: RankInfo, goodbye: Goodbye) -> None:
        name = f"{info.session:016x}"
        well = goodbye.end is End.FINISHED and goodbye.exit_code == 0
        for session in self._sessions:
            if session["session"] == name:
                session.update(ended=goodbye.time, end=goodbye.end.value, exit_code=goodbye.exit_code)
                if goodbye.signal:
                    session["signal"] = goodbye.signal
                if goodbye.exception:
                    session["exception"] = goodbye.exception
        rank = self._ranks[str(info.key.rank)]
        if rank["session"] == name:
            rank["state"] = "finished" if well else "failed"
        self._due = 0.0

    def save(self, *, force: bool = False) -> None:
        """Write the summary where it is due. Raises OSError."""
        now = time.monotonic()
        if self._info is None or not self._changed or (now < self._due and not force):
            return
        self._due = now + EVERY
        replace_file(self._path, json.dumps(finite(self.to_json()), indent=1, default=str, allow_nan=False) + "\n")
        self._changed = False

    def to_json(self) -> dict[str, object]:
        """Return the summary; times are Unix seconds, numbers that are not finite are text."""
        info = self._info
        if info is None:
            raise ValueError("no rank has said who it is yet")
        states = {str(rank["state"]) for rank in self._ranks.values()}
        ended = [float(cast(float, s["ended"])) for s in self._sessions if s["ended"] is not None]
        running = "running" in states
        metrics = self._extremes.to_json()
        return {
            "version": 1,
            "project": info.key.project,
            "run": info.key.run,
            "run_id": info.run_id,
            "name": info.name,
            "tags": list(info.tags),
            "notes": info.notes,
            "state": "running" if running else "failed" if "failed" in states else "finished",
            "started": min(float(cast(float, s["started"])) for s in self._sessions),
            "updated": time.time(),
            "ended": None if running or not ended else max(ended),
            "world_size": info.world_size,
            "launcher": info.launcher,
            "job_id": info.job_id,
            "config": dict(info.config),
            "environment": dict(info.environment),
            "hostname": info.hostname,
            "attempts": self._sessions,
            "ranks": self._ranks,
            "metrics_rank": self._rank,
            "metrics": metrics,
            "best": self._best(metrics),
        }

    def best(self, rank: int) -> dict[str, float]:
        """Return the best values by name, where they are those of this rank."""
        if rank != self._rank:
            return {}
        return {name: found["value"] for name, found in self._best(self._extremes.to_json()).items()}

    def _best(self, metrics: Mapping[str, Mapping[str, JsonNumber]]) -> dict[str, _Best]:
        best: dict[str, _Best] = {}
        for name, figures in metrics.items():
            role = self._roles.of(name)
            key = "min" if role in LOWER_IS_BETTER else "max" if role in HIGHER_IS_BETTER else ""
            if key and key in figures:
                best[name] = {"value": float(figures[key]), "step": int(figures[f"{key}_step"])}
        return best

    def _restore(self) -> None:
        """Go on from what an agent wrote before; a file that cannot be read is begun anew."""
        try:
            known = cast("dict[str, object]", json.loads(self._path.read_text()))
            sessions = cast("list[dict[str, object]]", known["attempts"])
            ranks = cast("dict[str, dict[str, object]]", known["ranks"])
            self._extremes.restore(cast("Mapping[str, object]", known["metrics"]))
            self._rank = int(cast(int, known["metrics_rank"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._extremes, self._rank = Extremes(), -1
            return
        self._sessions, self._ranks = sessions, ranks


def finite(value: object) -> object:
    """Return a value of JSON's kinds with numbers that are not finite as text."""
    if isinstance(value, float):
        return to_json(value)
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in cast("list[object]", value)]
    return value
