"""One session of one rank: from `init()` to `finish()`; everything public ends up here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic, monotonic_ns
from typing import cast

from rankscope.sdk import _guard as guard
from rankscope.sdk._columns import MAX_NAME
from rankscope.sdk._journal import Journal
from rankscope.sdk._live import Live
from rankscope.sdk._media import pieces
from rankscope.sdk._phases import Phase
from rankscope.sdk._rows import RowWriter
from rankscope.sdk._values import clean

_MAX_PHASES = 1000
_PAUSE = 1.0  # seconds at most for a record that is being written, before a fork

current: Session | None = None
"""The session of this process, if it has one."""


class Session(RowWriter):
    """Takes what the rank logs: rows, phases, events, media."""

    __slots__ = ("_media",)

    def __init__(self, journal: Journal, live: Live) -> None:
        super().__init__(journal, live)
        self._media = 0
        guard.held = cast("Callable[[], bool]", getattr(self._lock, "_is_owned"))  # noqa: B009 (as Condition asks it)

    def phase(self, name: str) -> Phase:
        phase = self.phase_objects.get(name)
        if phase is None:
            plain = str.__str__(name)  # of an Enum of strings, its value
            phase = Phase(self.phases, plain if 0 < len(plain) <= MAX_NAME else "other")
            if len(self.phase_objects) < _MAX_PHASES:
                self.phase_objects[name] = phase
        return phase

    def event(self, kind: str, fields: Mapping[str, object], data: bytes = b"", step: int | None = None) -> None:
        """Write an event at `step` (the last one where None)."""
        with self._lock:
            if self._busy:
                self._defer(lambda: self.event(kind, fields, data, step))
                return
            at = max(0, self.step) if step is None else self._step(step)
            self._busy = True
            try:
                self.journal.event(kind, at, fields, data)
            except ValueError as error:
                self.live.drop("too_large", 1)
                guard.warn(f"too_large:{kind}", f"sdk.{kind}: dropped: {error}")
            finally:
                self._busy = False
            if kind == "alert" and self.hurry is not None:
                self.hurry()
            if self._deferred:
                self._catch_up()
        guard.say()

    def media(
        self,
        kind: str,
        tag: str,
        data: bytes | Iterable[bytes],
        metadata: Mapping[str, object],
        step: int | None = None,
    ) -> None:
        """Write something large: an image, histogram, table, graph or artifact."""
        with self._lock:
            self._media += 1
            number = self._media
            at = max(0, self.step) if step is None else step
        for index, (piece, last) in enumerate(pieces(data)):
            first = {"metadata": dict(metadata)} if index == 0 else {}
            fields = {"kind": kind, "tag": clean(tag, MAX_NAME), "id": number, "index": index, "last": last, **first}
            self.event("media", fields, piece, at)

    def scalars(self, values: Mapping[str, float], step: int | None = None, time_ns: int | None = None) -> None:
        """Write numbers of a step without ending it: for what watches beside the loop. `time_ns`: CLOCK_MONOTONIC."""
        with self._lock:
            if self._busy:
                self._defer(lambda: self.scalars(values, step, time_ns))
                return
            at = max(0, self.step) if step is None else self._step(step)
            self._table(monotonic_ns() if time_ns is None else time_ns, at, values, None, late=True)
        guard.say()

    def knows(self, name: str) -> bool:
        """True when a scalar of this name came in a row of its own step, as the user's do."""
        return self._columns.knows(name)

    def end(self, fields: Mapping[str, object], deadline: float) -> None:
        """Write the last records and close the journal."""
        with self._lock:
            if self._busy:  # a signal handler ends the run in the middle of a log(), which may never go on
                self.journal.interrupted()
                self._busy = False
            self._catch_up()
            for waiting in self._late.rest(min(deadline, monotonic() + 1.0)):
                self._arrive(waiting)
            if self._late.lost:
                self.live.drop("late_lost", self._late.lost)
            if self.phases.spent:
                self._table(monotonic_ns(), max(0, self.step), {}, self.phases.spent)
            before = self.journal.sequence
            self.event("goodbye", fields)
            if self.journal.sequence == before:  # no room
                self.live.end(fields)
            self.tend = self.hurry = None
            self.journal.close()
            self.live.close()
            self.phases.page = self.live.page
        guard.say()

    def pause(self) -> Callable[[], None]:
        """Have other threads wait where they would log, if they let us; return what ends that."""
        return self._lock.release if self._lock.acquire(timeout=_PAUSE) else guard.nothing

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self.phases.owner = -1  # no thread: a phase that is open across the fork ends without a trace
        self.journal.abandon()
        self.live.abandon()


def media(
    kind: str, tag: str, data: bytes | Iterable[bytes], metadata: Mapping[str, object], step: int | None = None
) -> None:
    """Send something large through the session of this process, if there is one."""
    if current is not None:
        current.media(kind, tag, data, metadata, step)
