"""Runs on disk: those that are over, and the beginning of those that are longer than the windows in memory."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from rankscope.agent.model import FloatArray, IntArray
from rankscope.agent.reports.readers import events
from rankscope.agent.runs.roles import Roles

RUNS = 200  # runs that are listed, newest first
KEPT = 16  # curves that are remembered
FRESH = 30.0  # seconds for which a curve of a file that grows is good enough
POINTS = 1_000_000  # of one curve that are read

_RANK = re.compile(r"rank_(\d{4,})")


class Points(NamedTuple):
    """A curve as it lies on disk, in the order in which it was logged."""

    step: IntArray
    time: FloatArray
    value: FloatArray


class _Known(NamedTuple):
    read: float  # monotonic seconds
    size: int  # of the files then
    points: Points


class Archive:
    """Reads the folder of runs; every method reads files, so call it in a thread."""

    def __init__(self, folder: Path, roles: Roles) -> None:
        self._folder = folder
        self._roles = roles
        self._lock = threading.Lock()
        self._summaries: dict[Path, tuple[float, dict[str, object]]] = {}
        self._curves: OrderedDict[tuple[Path, str], _Known] = OrderedDict()

    def runs(self) -> list[dict[str, object]]:
        """Return the newest runs as their `run.json` has them, each with its folder's name as `id`."""
        with self._lock:
            found = sorted(((path.stat().st_mtime, path) for path in self._folder.glob("*/*/run.json")), reverse=True)
            known = self._summaries
            self._summaries = {}
            for changed, path in found[:RUNS]:
                if path in known and known[path][0] == changed:
                    self._summaries[path] = known[path]
                elif (summary := _summary(path)) is not None:
                    self._summaries[path] = (changed, summary)
            return [summary for _, summary in self._summaries.values()]

    def find(self, name: str) -> dict[str, object] | None:
        """Return a run by its name or its own id. No path is ever made of `name`."""
        return next((run for run in self.runs() if name in (run["id"], run["run_id"])), None)

    def ranks(self, project: str, run: str) -> dict[int, Path]:
        """Return the folders of a run's ranks. `project` and `run` are names of folders that exist."""
        folders = (self._folder / project / run).glob("rank_*")
        return dict(sorted((int(m[1]), path) for path in folders if (m := _RANK.fullmatch(path.name))))

    def curve(self, folder: Path, name: str) -> Points | None:
        """Return a series of a rank, by its name or its role, from the rank's event files; None where there is none."""
        with self._lock:
            files = sorted(folder.glob("events.out.tfevents.*"))
            size = sum(file.stat().st_size for file in files)
            known = self._curves.get((folder, name))
            now = time.monotonic()
            if known is None or (known.size != size and now - known.read > FRESH):
                known = self._curves[folder, name] = _Known(now, size, self._read(files, name))
            self._curves.move_to_end((folder, name))
            while len(self._curves) > KEPT:
                self._curves.popitem(last=False)
            return known.points if len(known.points.step) else None

    def _read(self, files: list[Path], name: str) -> Points:
        steps, times, values = list[int](), list[float](), list[float]()
        tag = ""
        for file in files:
            with file.open("rb") as stream:
                for _, step, at, metrics, _ in events.read(stream, []):
                    if not tag:
                        tag = next((own for own in metrics if own == name or self._roles.of(own) == name), "")
                    if tag in metrics and len(steps) < POINTS:
                        steps.append(step)
                        times.append(at)
                        values.append(metrics[tag])
        return Points(np.array(steps, np.int64), np.array(times, np.float64), np.array(values, np.float64))


def _summary(path: Path) -> dict[str, object] | None:
    try:
        known: object = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict):
        return None
    summary = cast("dict[str, object]", known)
    return {
        "run_id": "",
        **{key: value for key, value in summary.items() if key not in ("attempts", "version")},
        "id": path.parent.name,
        "project": path.parent.parent.name,
    }
