"""How a rule reads a series: every point once, in order, knowing where the run went back to a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rankscope.agent.model import FloatArray, IntArray
from rankscope.agent.runs.series import Series


class Piece(NamedTuple):
    """Points whose steps do not go back: steps, Unix seconds and values of one length."""

    back: bool  # the run went back to the first of these steps: what was read of later ones no longer counts
    step: IntArray
    time: FloatArray
    value: FloatArray


@dataclass(slots=True)
class Reader:
    """Remembers how far a series was read."""

    position: int = 0

    def read(self, series: Series | None) -> Iterator[Piece]:
        """Yield what came since the last call. How the points were grouped on arrival makes no difference."""
        if series is None or series.count == self.position:
            return
        step, time, value = series.since(self.position)
        first = series.count - len(step)  # above `position` when points have left the window unread
        cuts = [at - first for at in series.returns if at >= first] if series.returns else []
        self.position = series.count
        if not cuts:
            yield Piece(False, step, time, value)
            return
        for start, end in zip([0, *cuts], [*cuts, len(step)], strict=True):
            if start < end:
                yield Piece(start in cuts, step[start:end], time[start:end], value[start:end])
