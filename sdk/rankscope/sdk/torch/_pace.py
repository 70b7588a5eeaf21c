"""Which steps are sampled, which number they have, and what sampling may cost."""

from __future__ import annotations

import time

from rankscope.sdk import _guard as guard

BUDGET = 0.01  # of the time of a step: beyond it the interval is doubled
SLOWEST = 100_000  # steps between two samples


class Pace:
    """Counts an optimizer's steps. It knows the numbers of steps from the rows that are logged between them."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.steps = 0
        self._next = 1  # the step that is sampled next
        self._samples = 0
        self._row, self._since = -2, 0  # number of the last row, steps since
        self._spent = 0.0  # seconds since the last sample was complete
        self._last = self._took = 0.0  # when the last step was, and how long a step takes

    def advance(self, row: int, now: float) -> None:
        """A step is being made; `row` is the number of the last row logged, `now` is time.perf_counter()."""
        if self.due:
            self._sampled()
        self.steps += 1
        if row != self._row:
            self._row, self._since = row, 0
        self._since += 1
        if self._last:
            took = now - self._last
            self._took = min(took, 0.9 * self._took + 0.1 * took) if self._took else took
        self._last = now

    @property
    def number(self) -> int:
        """The number that the step will be logged with: one more than the last row, for each step since."""
        return max(0, self._row + self._since)

    @property
    def due(self) -> bool:
        """True while the step being made is to be sampled."""
        return self._next == self.steps

    @property
    def near(self) -> bool:
        """True when the step after this one is to be sampled."""
        return (self.steps + self.every if self.due else self._next) == self.steps + 1

    def spend(self, since: float) -> None:
        """Count the time since `since` as the price of watching."""
        self._spent += time.perf_counter() - since

    def _sampled(self) -> None:
        """A sample is complete: the next one is due after the interval, a longer one if this cost too much.

        The first sample does not count: libraries are loaded in it, and memory is laid out.
        """
        self._samples += 1
        if self._samples > 1 and self._took and self._spent > BUDGET * self._took * self.every < SLOWEST:
            self.every *= 2
            guard.warn("watch:budget", f"watch: above {BUDGET:.0%} of the time: every {self.every} steps from now on")
        self._next = self.steps + self.every
        self._spent = 0.0
