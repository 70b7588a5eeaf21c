"""The wall clock that the agent goes by: when somebody sets it, everything that was noted moves with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

log = logging.getLogger("rankscope.clock")

Direction: TypeAlias = Literal["forward", "back"]

LEAST = 1.0  # seconds: a leap second, and whatever a time service corrects without a step, is no jump
QUIET = 600.0  # seconds without a jump after which the next one is said again
STEADY = 0.01  # seconds that reading three clocks may take, for them to be of one moment
TRIES = 5


class Reading(NamedTuple):
    """The machine's clocks at one moment, in seconds."""

    wall: float  # Unix time, which people and time services set
    monotonic: float  # goes on while the machine runs, and is never set
    slept: float = 0.0  # how long the machine was suspended since it was booted


def read() -> Reading | None:
    """Read the clocks; None where the process was held up in between, so that they are not of one moment."""
    for _ in range(TRIES):
        before = time.monotonic()
        wall, boot = time.time(), time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
        after = time.monotonic()
        if after - before < STEADY:
            middle = (before + after) / 2
            return Reading(wall, middle, boot - middle)
    return None


@runtime_checkable
class Dated(Protocol):
    """Something that holds times in Unix seconds, and compares them with the present."""

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds: what was so long ago still is."""
        ...


class Clock:
    """Unix time that goes on evenly between two calls of `look`, whatever becomes of the wall clock meanwhile.

    So all that the agent notes is by one clock, and when that is set, all of it can be moved at once.
    """

    def __init__(self, reading: Callable[[], Reading | None] = read) -> None:
        self.jumps: dict[Direction, int] = {"forward": 0, "back": 0}
        self._reading = reading
        self._known = reading() or Reading(time.time(), time.monotonic())
        self._jumped: float | None = None  # monotonic

    @property
    def offset(self) -> float:
        """What is added to CLOCK_MONOTONIC, in seconds."""
        return self._known.wall - self._known.monotonic

    def now(self) -> float:
        """Return Unix seconds."""
        return time.monotonic() + self.offset

    def look(self) -> float:
        """Take over what the wall clock says; return by how many seconds what was noted must move, mostly 0.0."""
        new = self._reading()
        if new is None:
            return 0.0
        old, self._known = self._known, new
        away = (new.wall - new.monotonic) - (old.wall - old.monotonic)
        if abs(away) <= LEAST:
            return 0.0
        slept = new.slept - old.slept
        if abs(away - slept) > LEAST:
            self._note(away - slept, new.monotonic)
        else:
            log.info("this machine was suspended for %.0f s: that time counts for nothing", slept)
        return away

    def calm(self, seconds: float) -> bool:
        """Tell whether the clock has not jumped for so long."""
        return self._jumped is None or self._known.monotonic - self._jumped >= seconds

    def _note(self, seconds: float, now: float) -> None:
        """Count a jump; say the first of several."""
        self.jumps["forward" if seconds > 0 else "back"] += 1
        if self.calm(QUIET):
            log.warning(
                "the clock jumped by %+.0f s: times that were noted move with it, and nothing is lost; see to this "
                "machine's time service (more jumps are only counted, until there was none for %.0f min)",
                seconds,
                QUIET / 60,
            )
        self._jumped = now


@dataclass(slots=True)
class Follower:
    """Tells whoever looks at a clock only now and then by how many seconds it was set meanwhile."""

    _offset: float | None = None

    def moved(self, offset: float) -> float:
        """Return by how much the offset to CLOCK_MONOTONIC grew since the last call; 0.0 where that is no jump."""
        before, self._offset = self._offset, offset
        return offset - before if before is not None and abs(offset - before) > LEAST else 0.0


@dataclass(slots=True)
class RankClock:
    """By which clock a rank dates its rows: in most cases by that of this machine."""

    own: Clock = field(default_factory=Clock)  # the agent's
    here: bool = False  # the rank's is the same
    _theirs: Follower = field(default_factory=Follower)

    def late(self, offset: float | None) -> float:
        """Return by how many seconds to move times that a rank made with this offset to CLOCK_MONOTONIC.

        A rank learns a little sooner or later than the agent that the clock was set: its rows are dated by the
        agent's clock meanwhile. None is an offset that is not known.
        """
        if offset is None:
            return 0.0
        late = self.own.offset - offset
        if abs(late) <= LEAST:
            self.here = True
            return 0.0
        return late if self.here else 0.0

    def jumped(self, offset: float | None) -> float:
        """Return by how many seconds the clock of another machine jumped since the last call."""
        return 0.0 if offset is None or self.here else self._theirs.moved(offset)
