"""A condition that must hold for a while before it counts, and be gone for a while before it is over."""

from __future__ import annotations

from typing import Literal


class Sustained:
    """Holds when the newest `points` points, spanning `steps` steps at least, were all bad; over after as many good
    ones.
    """

    __slots__ = ("_bad", "_good", "_since", "holds", "points", "steps")

    def __init__(self, points: int, steps: int = 0) -> None:
        self.points = points
        self.steps = steps
        self.holds = False
        self._bad = self._good = 0
        self._since = 0

    def add(self, step: int, bad: bool) -> Literal["begins", "ends"] | None:
        """Take a point; tell whether the condition begins or ends with it."""
        if bad:
            if not self._bad:
                self._since = step
            self._bad, self._good = self._bad + 1, 0
            if not self.holds and self._bad >= self.points and step - self._since >= self.steps:
                self.holds = True
                return "begins"
            return None
        self._bad, self._good = 0, self._good + 1
        if self.holds and self._good >= self.points:
            self.holds = False
            return "ends"
        return None

    def reset(self) -> bool:
        """Begin anew; tell whether the condition held."""
        held, self.holds = self.holds, False
        self._bad = self._good = 0
        return held
