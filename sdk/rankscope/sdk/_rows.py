"""Rows of numbers into the journal: the fast path of `log()`, and the careful one behind it."""

from __future__ import annotations

import mmap
import operator
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from time import monotonic_ns
from typing import SupportsIndex, cast

from rankscope.sdk import _guard as guard
from rankscope.sdk import _values
from rankscope.sdk._columns import MAX_NAME, Columns, Layout
from rankscope.sdk._cost import Cost
from rankscope.sdk._journal import Journal
from rankscope.sdk._late import Late, Unavailable, Waiting
from rankscope.sdk._live import Live
from rankscope.sdk._phases import Phase, Phases
from rankscope.sdk._records import MARK

_STEPS = 2**62  # steps lie within: as many can follow before one does not fit into 64 bits
_thread = threading.get_ident


class RowWriter:
    """Writes rows of numbers. Threads may share it; a signal handler or finalizer may interrupt it anywhere."""

    __slots__ = (
        "_busy",
        "_columns",
        "_deferred",
        "_known",
        "_late",
        "_lock",
        "_rare",
        "cost",
        "hurry",
        "journal",
        "live",
        "phase_objects",
        "phases",
        "step",
        "tend",
    )

    def __init__(self, journal: Journal, live: Live) -> None:
        self.journal = journal
        self.live = live
        self.cost = Cost(live)
        self.phases = Phases(live)
        self.phase_objects: dict[str, Phase] = {}
        self.step: int = -1  # of the last row
        self._columns = Columns(journal, live)
        self._known = self._columns.known
        self._lock = threading.RLock()
        self._busy = False  # a record is being written: who comes in now interrupted that, on the same thread
        self._deferred: deque[Callable[[], None]] = deque()
        self._late = Late()
        self._rare = False  # something has to be looked after at the next row
        self.tend: Callable[[], None] | None = None  # looks after the sender
        self.hurry: Callable[[], None] | None = None  # has it look at once

    def log(self, metrics: Mapping[str, object] | None, step: int | None, scalars: Mapping[str, object]) -> None:
        """Write a row: the one thing here that must be fast."""
        now = monotonic_ns()
        values = scalars if metrics is None else _values.merge(metrics, scalars, self._refuse)
        for value in values.values():
            if type(value) is not float or value - value:  # no float, or one that is not finite
                numbers, late = _values.sort_out(values, self._refuse)
                self._row(now, numbers, step, late)
                return
        phases = self.phases
        spent = phases.spent
        if not spent:
            layout = self._known.get(tuple(values))
            cells: Iterable[object] = values.values()
        elif phases.owner == _thread():
            layout = self._known.get((tuple(values), tuple(spent)))
            cells = (*values.values(), *spent.values())
        else:
            layout, cells = None, ()
        if layout is None or self._rare or phases.stack:
            self._row(now, cast("Mapping[str, float]", values), step, None)
            return
        size, shape, pack_into = layout
        journal = self.journal
        with self._lock:
            if self._busy:
                self._defer(lambda: self.log(metrics, step, scalars))
                return
            if step is None:
                number = self.step + 1
            else:
                number = step if type(step) is int and -_STEPS <= step < _STEPS else self._step(step)
            end = journal.offset + size
            if end <= journal.limit:
                sequence = journal.sequence
                self._busy = True
                try:
                    pack_into(journal.buffer, journal.offset, size, shape, number, now, *cells, MARK)
                    journal.offset = end
                    journal.sequence = sequence + 1
                    self.step = number
                    if spent:
                        phases.spent = {}
                except BaseException:
                    journal.repair(end, sequence)
                    raise
                finally:
                    self._busy = False
                if self._deferred:
                    self._catch_up()
                return
            self._slow(now, layout, number, cast("Iterable[float]", cells))
            self.step = number
            if spent:
                phases.spent = {}
        guard.say()

    def _refuse(self, reason: str, name: str, message: str) -> None:
        """Count a value that is left out, and say so once for each name."""
        self.live.drop(reason, 1)
        guard.warn(f"{reason}:{name[:MAX_NAME]}", f"sdk.log: {message[:500]}")

    def _row(self, now: int, values: Mapping[str, float], step: int | None, late: Mapping[str, object] | None) -> None:
        """Write a row on the careful path: with phases, late values, new names, or earlier ones that have arrived."""
        with self._lock:
            if self._busy:
                self._defer(lambda: self._row(now, values, step, late))
                return
            number = self.step + 1 if step is None else self._step(step)
            if self._rare:
                self._settle()
            if late:
                self._hold(now, number, late)
            spent = self.phases.take()
            if values or spent:
                self._table(now, number, values, spent)
            self.step = number
        guard.say()

    def _table(
        self, now: int, step: int, values: Mapping[str, float], spent: Mapping[str, float] | None, late: bool = False
    ) -> None:
        layout = None
        if not late:
            layout = self._known.get((tuple(values), tuple(spent)) if spent else tuple(values))
        if layout is None:
            for found, cells in self._columns.rows(values, spent, late):
                self._slow(now, found, step, cells)
        else:
            self._slow(now, layout, step, (*values.values(), *spent.values()) if spent else values.values())
        if self.hurry is not None and not all(map(isfinite, values.values())):
            self.hurry()

    def _slow(self, now: int, layout: Layout, step: int, cells: Iterable[float]) -> None:
        """Write a row where room may have to be made, and look at what it all costs."""
        size, shape, pack_into = layout
        journal = self.journal

        def pack(buffer: mmap.mmap | bytearray, offset: int) -> None:
            pack_into(buffer, offset, size, shape, step, now, *cells, MARK)

        self._busy = True
        try:
            if journal.offset + size <= journal.limit:
                journal.place(journal.offset + size, pack)
            else:
                journal.append(size, pack, (size - 32) // 8)
                cost = self.cost
                if cost.sampling:
                    journal.advance()
                    cost.usual(journal.sequence, monotonic_ns() - now, len(self.phase_objects))
                    if self.tend is not None:
                        self.tend()
                else:  # room was made: the next call will be a usual one
                    journal.limit = 0
                    cost.spend(monotonic_ns() - now)
                cost.sampling = not cost.sampling
        finally:
            self._busy = False
        if self._deferred:
            self._catch_up()

    def _step(self, step: object) -> int:
        """Return a step as an integer that fits; what is none counts as not given."""
        try:
            number = operator.index(cast("SupportsIndex", step))
        except Exception:  # noqa: BLE001 (whatever the user's object does)
            try:
                number = int(_values.number(step))
            except (_values.NotANumber, ValueError, OverflowError):
                number = _STEPS
        if -_STEPS <= number < _STEPS:
            return number
        why = "too large" if isinstance(step, int) else f"{type(step).__name__}, no integer"
        guard.warn("log:step", f"sdk.log: the step is {why}: the next one is taken")
        self.live.drop("bad_argument", 1)
        return self.step + 1

    def _defer(self, job: Callable[[], None]) -> None:
        """Note what a signal handler or finalizer wants while a record is being written."""
        self._deferred.append(job)

    def _catch_up(self) -> None:
        while self._deferred:
            self._deferred.popleft()()

    def _hold(self, now: int, step: int, tensors: Mapping[str, object]) -> None:
        """Start the copies of values that are still on a device."""
        waiting = Waiting(step, now)
        for name, tensor in tensors.items():
            self._aside(waiting, name, tensor)
        if waiting.names:
            self._late.put(waiting)
            self._rare = True

    def _aside(self, waiting: Waiting, name: str, tensor: object) -> None:
        try:
            waiting.add(name, tensor)
        except Unavailable as error:
            self._refuse("late_lost", name, f"{name} is dropped: {error}")
        except Exception as error:  # noqa: BLE001 (a tensor of the user's, or its device, that fails)
            self._refuse("late_lost", name, f"{name} is dropped: {type(error).__name__}: {error}")

    def _settle(self) -> None:
        """Write the rows of earlier steps whose values have arrived."""
        for waiting in self._late.arrived():
            self._arrive(waiting)
        self._rare = bool(self._late)

    def _arrive(self, waiting: Waiting) -> None:
        values = dict(zip(waiting.names, waiting.values(), strict=True))
        self._table(waiting.time, waiting.step, values, None, late=True)
