"""File systems asked for their space, so that one whose server is gone holds up nobody and none of the others."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from rankscope.agent.samplers._linux.files import Files


@dataclass(slots=True)
class _Round:
    """What a thread does: it asks after one mount point after the other, while somebody waits for it."""

    files: Files
    points: Sequence[str]
    found: dict[str, os.statvfs_result | None] = field(default_factory=dict[str, "os.statvfs_result | None"])
    left_alone: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        for point in self.points:
            space = None
            with contextlib.suppress(OSError):
                space = self.files.space(point) if self.files.is_folder(point) else None
            with self._lock:
                if self.left_alone:
                    return
                self.found[point] = space

    def leave(self, asked: int) -> bool:
        """Wait no more where no further mount point answered since this many had."""
        with self._lock:
            self.left_alone = asked == len(self.found) < len(self.points)
            return self.left_alone


@dataclass(slots=True)
class Spaces:
    """Waits `patience` for each mount point. One that does not answer is left out, and asked again once it did.

    So no more threads hang than mount points do.
    """

    patience: float = 3.0  # seconds
    _hanging: dict[str, threading.Thread] = field(default_factory=dict[str, threading.Thread])

    def look(self, files: Files, points: Sequence[str]) -> dict[str, os.statvfs_result | None]:
        """Return the space by mount point: None where it is no folder or may not be asked; without those that hang."""
        self._hanging = {point: thread for point, thread in self._hanging.items() if thread.is_alive()}
        left = [point for point in points if point not in self._hanging]
        found: dict[str, os.statvfs_result | None] = {}
        while left:
            one = _Round(files, left)
            thread = threading.Thread(target=one.run, name="file systems", daemon=True)
            thread.start()
            asked = -1
            while not one.leave(asked) and thread.is_alive():
                asked = len(one.found)
                thread.join(self.patience)
            if one.left_alone:
                self._hanging[left[asked]] = thread
            found |= one.found
            left = left[len(one.found) + 1 :]
        return found
