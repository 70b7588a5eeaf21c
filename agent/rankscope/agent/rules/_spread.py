"""A window of the newest values, kept sorted: median, quantiles and extremes at any moment for the price of one
insert.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterable

IQR_OF_NORMAL = 1.349  # interquartile range of a normal distribution, in standard deviations


class Spread:
    """The newest `size` values and how they are spread. Values must be finite."""

    __slots__ = ("_order", "_sorted", "size")

    def __init__(self, size: int, values: Iterable[float] = ()) -> None:
        self.size = size
        self._order: deque[float] = deque()
        self._sorted: list[float] = []
        for value in values:
            self.add(value)

    def add(self, value: float) -> None:
        if len(self._order) >= self.size:
            oldest = self._order.popleft()
            del self._sorted[bisect.bisect_left(self._sorted, oldest)]
        self._order.append(value)
        bisect.insort(self._sorted, value)

    def drop_newest(self, count: int) -> None:
        """Forget the values that were added last."""
        for _ in range(min(count, len(self._order))):
            del self._sorted[bisect.bisect_left(self._sorted, self._order.pop())]

    def clear(self) -> None:
        self._order.clear()
        self._sorted.clear()

    def quantile(self, q: float) -> float:
        """Return the value below which the share `q` of the window lies (nearest rank). Raises IndexError when
        empty.
        """
        return self._sorted[int(q * (len(self._sorted) - 1) + 0.5)]

    @property
    def median(self) -> float:
        return self.quantile(0.5)

    @property
    def sigma(self) -> float:
        """A standard deviation that outliers do not move: the interquartile range over that of a normal
        distribution.
        """
        return (self.quantile(0.75) - self.quantile(0.25)) / IQR_OF_NORMAL

    def farther(self, value: float) -> float:
        """Return how far above the median a value lies in logarithms, in deviations of the logarithms.

        Infinity where values are not positive and logarithms mean nothing.
        """
        if self.quantile(0.25) <= 0 or value <= 0:
            return math.inf
        sigma = self.log_sigma
        return math.log(value / self.median) / sigma if sigma > 0 else math.inf

    @property
    def log_sigma(self) -> float:
        """The deviation of the logarithms, as `sigma` of the values; infinity where values are not positive."""
        low = self.quantile(0.25)
        return math.log(self.quantile(0.75) / low) / IQR_OF_NORMAL if low > 0 else math.inf

    @property
    def low(self) -> float:
        return self._sorted[0]

    @property
    def high(self) -> float:
        return self._sorted[-1]

    @property
    def newest(self) -> list[float]:
        """All values, oldest first."""
        return list(self._order)

    def __len__(self) -> int:
        return len(self._order)
