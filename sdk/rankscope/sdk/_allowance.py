"""How much may be done now, where a backlog must not come as a burst."""

from __future__ import annotations

import time


class Allowance:
    """So many a second; what is not used within the second is gone."""

    def __init__(self, per_second: float) -> None:
        self._per_second = self._left = per_second
        self._refilled = time.monotonic()

    def left(self, now: float) -> int:
        """Return how many are allowed at `now`, monotonic seconds."""
        self._left = min(self._per_second, self._left + (now - self._refilled) * self._per_second)
        self._refilled = now
        return int(self._left)

    def take(self, count: int) -> None:
        self._left -= count
