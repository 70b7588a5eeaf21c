"""The whole of a series in bounded memory: bins of equal numbers of points that widen as the series grows."""

from __future__ import annotations

from typing import NamedTuple

MOST = 128  # bins; at most this many, at least half of it once the series is long


class Bin(NamedTuple):
    first: int  # step of the first point
    last: int  # step of the last point
    mean: float
    square: float  # mean of squares


class History:
    """Bins over all points that were added, each of `width` points. Values must be finite."""

    __slots__ = ("_count", "_first", "_sum", "_total", "bins", "width")

    def __init__(self) -> None:
        self.bins: list[Bin] = []
        self.width = 1
        self._count = 0
        self._first = 0
        self._sum = self._total = 0.0  # of the bin that is being filled: values, squares

    def add(self, step: int, value: float) -> bool:
        """Add a point; tell whether a bin was completed."""
        if not self._count:
            self._first = step
        self._count += 1
        self._sum += value
        self._total += value * value
        if self._count < self.width:
            return False
        self.bins.append(Bin(self._first, step, self._sum / self.width, self._total / self.width))
        self._count, self._sum, self._total = 0, 0.0, 0.0
        if len(self.bins) >= MOST:
            pairs = zip(self.bins[::2], self.bins[1::2], strict=True)
            self.bins = [Bin(a.first, b.last, (a.mean + b.mean) / 2, (a.square + b.square) / 2) for a, b in pairs]
            self.width *= 2
        return True

    def back(self, step: int) -> None:
        """Forget the points of this step and later ones (to the resolution of a bin)."""
        while self.bins and self.bins[-1].last >= step:
            self.bins.pop()
        self._count, self._sum, self._total = 0, 0.0, 0.0

    @property
    def points(self) -> int:
        return len(self.bins) * self.width
