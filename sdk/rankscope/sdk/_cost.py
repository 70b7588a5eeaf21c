"""What the SDK takes of the rank's time: measured on a call now and then, reported, and kept within a budget."""

from __future__ import annotations

from time import monotonic_ns

from rankscope.sdk._live import Live

BUDGET = 0.005  # of the rank's time: beyond it, what is optional is thinned
PHASE_NS = 700  # what a phase takes, in and out (tests/bench/hotpath.py)


class Cost:
    """`sampling`: the next call that comes by is a usual one, and is to be measured."""

    __slots__ = ("_live", "_rows", "_started", "sampling", "spent")

    def __init__(self, live: Live) -> None:
        self._live = live
        self._rows = 0  # at the last look
        self._started = monotonic_ns()
        self.sampling = False
        self.spent = 0  # ns

    def usual(self, rows: int, sample: int, phases: int) -> None:
        """A usual call took `sample` ns; all since the last look, up to the row `rows`, count the same."""
        self.spent += (sample + phases * PHASE_NS) * (rows - self._rows)
        self._rows = rows
        self._live.cost(rows, self.spent, monotonic_ns(), sample)

    def spend(self, nanoseconds: int) -> None:
        """Add what something optional took, such as the histograms of a step."""
        self.spent += nanoseconds

    @property
    def ratio(self) -> float:
        """The SDK's share of the rank's time since `init()`."""
        return self.spent / max(1, monotonic_ns() - self._started)

    def rate(self, what: str) -> float:
        """How often to send `histograms` or `activations`: 1 as configured, 0 off; less beyond the budget."""
        wish, ratio = self._live.rate(what), self.ratio
        return wish if ratio <= BUDGET else wish * BUDGET / ratio
