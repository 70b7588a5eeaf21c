"""A window over one series of numbers: the newest points at full resolution, in arrays."""

from __future__ import annotations

import numpy as np

from rankscope.agent.model import FloatArray, IntArray

WINDOW = 2048


class Series:
    """The newest points of one series, in the order of their arrival; `count` counts all that ever came.

    `step`, `time` (Unix seconds) and `value` are views of equal length, oldest first, valid until the next `extend`.
    `returns` holds the positions (counted like `count`) of the newest points whose step lies before that of the point
    ahead of them: a restart from a checkpoint.
    """

    __slots__ = (
        "_end",
        "_last_step",
        "_start",
        "_step",
        "_time",
        "_value",
        "count",
        "name",
        "returns",
        "role",
        "window",
    )

    def __init__(self, name: str, window: int = WINDOW, role: str | None = None) -> None:
        self.name = name
        self.role = role  # what the numbers are, whatever they are called
        self.window = window
        self.count = 0
        self.returns: list[int] = []
        self._last_step: int | None = None
        self._start = self._end = 0
        self._step: IntArray = np.empty(64, np.int64)
        self._time: FloatArray = np.empty(64, np.float64)
        self._value: FloatArray = np.empty(64, np.float64)

    def extend(self, step: IntArray, time: FloatArray, value: FloatArray) -> None:
        """Append points (three arrays of one length); the oldest make room."""
        n = len(value)
        if not n:
            return
        self._note_returns(step)
        self.count += n
        if n > self.window:
            step, time, value, n = step[-self.window :], time[-self.window :], value[-self.window :], self.window
        if self._end + n > len(self._value):
            self._make_room(n)
        end = self._end + n
        self._step[self._end : end] = step
        self._time[self._end : end] = time
        self._value[self._end : end] = value
        self._end = end
        self._start = max(self._start, end - self.window)

    def append(self, step: int, time: float, value: float) -> None:
        """Append one point: what `extend` does, without the arrays."""
        if self._last_step is not None and step < self._last_step:
            self.returns.append(self.count)
            del self.returns[:-64]
        self._last_step = step
        self.count += 1
        if self._end == len(self._value):
            self._make_room(1)
        end = self._end
        self._step[end], self._time[end], self._value[end] = step, time, value
        self._end = end + 1
        self._start = max(self._start, end + 1 - self.window)

    def shift(self, seconds: float) -> None:
        """Move the times of all points: the clock was set."""
        self._time[self._start : self._end] += seconds

    def _note_returns(self, step: IntArray) -> None:
        """Remember where the steps go back; called before the points are counted."""
        if self._last_step is not None and step[0] < self._last_step:
            self.returns.append(self.count)
        if len(step) > 1 and (back := np.flatnonzero(step[1:] < step[:-1])).size:
            self.returns.extend((back + 1 + self.count).tolist())
        self._last_step = int(step[-1])
        del self.returns[:-64]

    def since(self, position: int) -> tuple[IntArray, FloatArray, FloatArray]:
        """Return steps, times and values of the points that came after the first `position` ones, as views.

        Points that have already left the window are not among them.
        """
        start = max(self._start, self._end - (self.count - position))
        return self._step[start : self._end], self._time[start : self._end], self._value[start : self._end]

    def _make_room(self, n: int) -> None:
        """Move the window to the front of its arrays, of a size that makes moves rare."""
        start = max(self._start, self._end + n - self.window)
        kept = self._end - start
        # a quarter more than the window: a move for every few hundred points costs nothing, room for twice as many does
        size = max(len(self._value), kept + n, min(self.window + self.window // 4, 2 * (kept + n)))
        for name in ("_step", "_time", "_value"):
            old = getattr(self, name)
            new = np.empty(size, old.dtype) if size != len(old) else old
            new[:kept] = old[start : self._end].copy()
            setattr(self, name, new)
        self._start, self._end = 0, kept

    @property
    def step(self) -> IntArray:
        return self._step[self._start : self._end]

    @property
    def time(self) -> FloatArray:
        return self._time[self._start : self._end]

    @property
    def value(self) -> FloatArray:
        return self._value[self._start : self._end]

    @property
    def last(self) -> float:
        """The newest value. Raises IndexError while there is none."""
        if self._end == self._start:
            raise IndexError(f"{self.name} has no value yet")
        return float(self._value[self._end - 1])

    def __len__(self) -> int:
        return self._end - self._start
