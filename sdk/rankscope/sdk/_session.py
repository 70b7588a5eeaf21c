"""One session of one rank: from `init()` to `finish()`; everything public ends up here."""

from __future__ import annotations

import mmap
import operator
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic, monotonic_ns
from typing import TypeAlias

from rankscope.sdk import _guard as guard
from rankscope.sdk import _records as records
from rankscope.sdk import _values as values_
from rankscope.sdk._journal import Journal
from rankscope.sdk._late import Late, Unavailable, Waiting
from rankscope.sdk._live import Live
from rankscope.sdk._phases import Phase, Phases
from rankscope.sdk._records import MARK, Column, Shape

MAX_NAMES = 5_000
MAX_NAME = 256
MAX_CELLS = 200_000  # columns of all shapes: beyond it rows are split into single values
MAX_TEXT = 256 * 1024
BUDGET = 0.005  # of the time of a step: beyond it, what is optional is thinned
_INT64 = 2**63

Scalars: TypeAlias = Mapping[str, object]
Layout: TypeAlias = "tuple[int, int, Callable[..., None]]"  # size of the row, number of its shape, pack_into

current: Session | None = None
"""The session of this process, if it has one."""


class Session:
    """Takes what the rank logs. Threads may share it; a signal handler or finalizer may interrupt it anywhere."""

    __slots__ = (
        "_busy",
        "_calls",
        "_cells",
        "_deferred",
        "_late",
        "_layouts",
        "_lock",
        "_media",
        "_names",
        "_rare",
        "_sampling",
        "_shapes",
        "_spent",
        "_started",
        "journal",
        "live",
        "phase_objects",
        "phases",
        "step",
    )

    def __init__(self, journal: Journal, live: Live) -> None:
        self.journal = journal
        self.live = live
        self.phases = Phases(live)
        self.phase_objects: dict[str, Phase] = {}
        self.step = -1  # of the last row
        self._lock = threading.RLock()
        self._busy = False  # a record is being written: who comes in now interrupted that, on the same thread
        self._deferred: deque[Callable[[], None]] = deque()
        self._late = Late()
        self._rare = False  # something has to be looked after at the next row
        self._shapes: dict[tuple[str, ...] | tuple[tuple[str, ...], ...], Layout] = {}  # by what is logged together
        self._layouts: dict[tuple[bool, tuple[Column, ...]], Layout] = {}
        self._names: set[Column] = set()
        self._cells = 0
        self._media = 0
        self._sampling = False
        self._calls = 0  # records up to the last look at the SDK's own cost
        self._spent = 0  # ns of the rank's time, as far as known
        self._started = monotonic_ns()

    # --- rows of numbers ---------------------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, object] | None, step: int | None, scalars: Scalars) -> None:
        """Write a row: the one thing here that must be fast."""
        now = monotonic_ns()
        values = scalars if metrics is None else self._merge(metrics, scalars)
        for value in values.values():
            if type(value) is not float:
                self._odd(now, values, step)
                return
        layout = self._shapes.get(tuple(values))
        if layout is None or self._rare or self.phases.spent or self.phases.stack:
            self._row(now, values, step, None)
            return
        size, number, pack_into = layout
        journal = self.journal
        with self._lock:
            if self._busy:
                self._deferred.append(lambda: self._row(now, values, step, None))
                return
            if step is None:
                step = self.step + 1
            elif type(step) is not int:
                step = self._step(step)
            end = journal.offset + size
            if end > journal.limit:
                self._slow(now, layout, step, values.values())
                self.step = step
                return
            sequence = journal.sequence
            self._busy = True
            try:
                pack_into(journal.buffer, journal.offset, size, number, step, now, *values.values(), MARK)
                journal.offset = end
                journal.sequence = sequence + 1
                self.step = step
            except BaseException:
                journal.repair(end, sequence)
                raise
            finally:
                self._busy = False
            if self._deferred:
                self._catch_up()

    def _merge(self, metrics: Mapping[str, object], scalars: Scalars) -> Scalars:
        if type(metrics) is dict and not scalars:
            for name, value in metrics.items():
                if type(name) is not str or isinstance(value, Mapping):
                    break
            else:
                return metrics
        if not isinstance(metrics, Mapping):
            guard.warn("log:metrics", f"sdk.log: the first argument is a {type(metrics).__name__}, no dict: dropped")
            self.live.drop("bad_argument", 1)
            return scalars
        return {**dict(values_.flatten(metrics)), **scalars}  # pyright: ignore[reportArgumentType]

    def _odd(self, now: int, values: Scalars, step: int | None) -> None:
        """Write a row in which some values are not floats: convert them, or leave them out."""
        kept: dict[str, float] = {}
        late: dict[str, object] = {}
        for name, value in values.items():
            if type(value) is float:
                kept[name] = value
            elif isinstance(value, Mapping):
                for inner, part in values_.flatten(value, name + values_.SEPARATOR):
                    self._convert(inner, part, kept, late)
            else:
                self._convert(name, value, kept, late)
        self._row(now, kept, step, late)

    def _convert(self, name: str, value: object, kept: dict[str, float], late: dict[str, object]) -> None:
        try:
            if values_.on_device(value):
                late[name] = value
            else:
                kept[name] = values_.number(value)
        except values_.NotANumber as error:
            self._refuse(name, "not_a_number", f"{name} is dropped: {error} is no number")
        except Exception as error:  # noqa: BLE001 (an object of the user's whose conversion fails)
            self._refuse(name, "not_a_number", f"{name} is dropped: {type(error).__name__} when it was made a number")

    def _refuse(self, name: str, reason: str, message: str) -> None:
        self.live.drop(reason, 1)
        guard.warn(f"{reason}:{name[:MAX_NAME]}", f"sdk.log: {message[:500]}")

    def _row(self, now: int, values: Scalars, step: int | None, late: Mapping[str, object] | None) -> None:
        """Write a row on the careful path: with phases, late values, new names or no segment at hand."""
        with self._lock:
            if self._busy:
                self._deferred.append(lambda: self._row(now, values, step, late))
                return
            number = self.step + 1 if step is None else self._step(step)
            if self._rare:
                self._settle()
            if late:
                self._hold(now, number, late)
            spent = self.phases.take() if self.phases.spent or self.phases.stack else None
            if values or spent:
                self._table(now, number, values, spent)
            self.step = number
            if self._deferred:
                self._catch_up()

    def _table(self, now: int, step: int, values: Scalars, spent: Mapping[str, int] | None, late: bool = False) -> None:
        """Write the values (and phases) of a step as one row, or as several where the names are too many."""
        key = tuple(values) if spent is None else (tuple(values), tuple(spent))
        cells: Iterable[object] = values.values()
        if spent is not None:
            cells = [*values.values(), *[ns * 1e-9 for ns in spent.values()]]
        layout = None if late else self._shapes.get(key)
        if layout is None:
            columns = [Column(name) for name in values] + [Column(name, "phase") for name in spent or ()]
            kept = [(column, cell) for column, cell in zip(columns, cells, strict=True) if self._known(column)]
            if not kept:
                return
            columns = [column for column, _ in kept]
            cells = [cell for _, cell in kept]
            if self._cells + len(columns) > MAX_CELLS and len(columns) > 1:
                for column, cell in kept:
                    self._write(now, self._layout((column,), late), step, (cell,))
                return
            layout = self._layout(tuple(columns), late)
            if layout is not None and len(columns) == len(values) + len(spent or ()) and not late:
                self._shapes[key] = layout
        self._write(now, layout, step, cells)

    def _known(self, column: Column) -> bool:
        if column in self._names:
            return True
        if len(self._names) >= MAX_NAMES or not 0 < len(column.name) <= MAX_NAME:
            fits = 0 < len(column.name) <= MAX_NAME
            why = f"there are {MAX_NAMES} names already" if fits else f"a name has 1 to {MAX_NAME} characters"
            self.live.drop("too_many_names", 1)
            guard.warn("too_many_names", f"sdk.log: {column.name[:64]!r} is dropped: {why}")
            return False
        column.name.encode()  # raises where the name is no text
        self._names.add(column)
        return True

    def _layout(self, columns: tuple[Column, ...], late: bool) -> Layout | None:
        """Return the layout of a row, writing down a new one; None when the disk is full."""
        layout = self._layouts.get((late, columns))
        if layout is None:
            packer = records.row_struct(len(columns))
            number = len(self._layouts)
            try:
                self.journal.shape(Shape(number, columns, late))
            except OSError as error:
                guard.warn("disk_full", f"points are dropped: cannot write to {self.journal.folder}: {error.strerror}")
                return None
            layout = (packer.size, number, packer.pack_into)
            self._layouts[late, columns] = layout
            self._cells += len(columns)
        return layout

    def _write(self, now: int, layout: Layout | None, step: int, cells: Iterable[object]) -> None:
        if layout is None:
            self.live.drop("disk_full", len(list(cells)))
            return
        self._slow(now, layout, step, cells)

    def _slow(self, now: int, layout: Layout, step: int, cells: Iterable[object]) -> None:
        """Write a row where room may have to be made, and look at what it all costs."""
        size, number, pack_into = layout
        row = tuple(cells)
        journal = self.journal
        end = journal.offset + size

        def pack(buffer: mmap.mmap | bytearray, offset: int) -> None:
            pack_into(buffer, offset, size, number, step, now, *row, MARK)

        self._busy = True
        try:
            if end <= journal.limit:
                journal.place(end, pack)
            else:
                sampling, self._sampling = self._sampling, not self._sampling
                journal.append(size, pack, len(row))
                if sampling:
                    journal.advance()
                    self._account(monotonic_ns() - now)
                else:  # pages were faulted in: look at the next call, which is a usual one
                    journal.limit = 0
                    self._spent += monotonic_ns() - now
        finally:
            self._busy = False
        if self._deferred:
            self._catch_up()

    def _step(self, step: object) -> int:
        """Return a step as an integer that fits; what is none counts as not given."""
        try:
            number = operator.index(step)  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 (whatever the user's object does)
            try:
                exact = values_.number(step)
                number = int(exact)
            except (values_.NotANumber, ValueError, OverflowError):
                number = _INT64
        if -_INT64 <= number < _INT64:
            return number
        guard.warn("log:step", f"sdk.log: a step is an integer, not {type(step).__name__}: the next one is taken")
        self.live.drop("bad_argument", 1)
        return self.step + 1

    def _catch_up(self) -> None:
        """Do what a signal handler or finalizer asked for while a record was being written."""
        while self._deferred:
            self._deferred.popleft()()

    # --- what it costs -----------------------------------------------------------------------------------------------

    def _account(self, sample: int) -> None:
        """Note that a usual call took `sample` ns, as all since the last look did."""
        calls = self.journal.sequence
        self._spent += sample * (calls - self._calls) + 1000 * len(self.phase_objects)
        self._calls = calls
        self.live.cost(calls, self._spent, monotonic_ns(), sample)

    def spend(self, nanoseconds: int) -> None:
        """Add what an optional part took of the rank's time."""
        self._spent += nanoseconds
        self.live.cost(self._calls, self._spent, monotonic_ns(), 0)

    @property
    def overhead(self) -> float:
        """The SDK's share of the rank's time since `init()`."""
        return self._spent / max(1, monotonic_ns() - self._started)

    def rate(self, what: str) -> float:
        """How often to send `histograms` or `activations`: 1 as configured, less when the agent wishes it or when the
        SDK costs more than its budget, 0 off."""
        wish = self.live.rate(what)
        overhead = self.overhead
        return wish if overhead <= BUDGET else wish * BUDGET / overhead

    # --- device tensors ----------------------------------------------------------------------------------------------

    def _hold(self, now: int, step: int, tensors: Mapping[str, object]) -> None:
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
            self._refuse(name, "late_lost", f"{name} is dropped: {error}")

    def _settle(self) -> None:
        """Write the rows of earlier steps whose values have arrived."""
        for waiting in self._late.arrived():
            self._arrive(waiting)
        self._rare = bool(self._late)

    def _arrive(self, waiting: Waiting) -> None:
        self._table(waiting.time, waiting.step, dict(zip(waiting.names, waiting.values(), strict=True)), None, True)

    # --- everything else ---------------------------------------------------------------------------------------------

    def phase(self, name: str) -> Phase:
        phase = self.phase_objects.get(name)
        if phase is None:
            if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
                name = "other"
            phase = Phase(self.phases, name)
            if len(self.phase_objects) < MAX_NAMES:
                self.phase_objects[name] = phase
        return phase

    def event(self, kind: str, fields: Mapping[str, object], data: bytes = b"", step: int | None = None) -> None:
        """Write an event at `step` (the last one where None)."""
        with self._lock:
            if self._busy:
                self._deferred.append(lambda: self.event(kind, fields, data, step))
                return
            at = max(0, self.step) if step is None else self._step(step)
            self._busy = True
            try:
                self.journal.event(kind, at, fields, data)
                self.journal.advance()
            except ValueError as error:
                self.live.drop("too_large", 1)
                guard.warn(f"too_large:{kind}", f"sdk.{kind}: dropped: {error}")
            finally:
                self._busy = False
            if self._deferred:
                self._catch_up()

    def media(
        self,
        kind: str,
        tag: str,
        pieces: bytes | Iterable[bytes],
        metadata: Mapping[str, object],
        step: int | None = None,
    ) -> None:
        """Write something large: an image, histogram, table, graph or artifact, in pieces of at most 256 KiB."""
        with self._lock:
            self._media += 1
            number = self._media
        cut = _cut([pieces] if isinstance(pieces, bytes) else pieces)
        for index, (piece, last) in enumerate(cut):
            fields: dict[str, object] = {"kind": kind, "tag": clean(tag, MAX_NAME), "id": number, "index": index}
            fields["last"] = last
            if index == 0:
                fields["metadata"] = dict(metadata)
            self.event("media", fields, piece, step)

    def scalars(self, values: Mapping[str, float], step: int | None = None, time_ns: int | None = None) -> None:
        """Write numbers of a step without ending it: for what watches beside the loop."""
        with self._lock:
            if self._busy:
                self._deferred.append(lambda: self.scalars(values, step, time_ns))
                return
            at = max(0, self.step) if step is None else self._step(step)
            self._table(monotonic_ns() if time_ns is None else time_ns, at, values, None, late=True)

    def end(self, fields: Mapping[str, object], deadline: float) -> None:
        """Write the last record and close the journal."""
        with self._lock:
            for waiting in self._late.rest(min(deadline, monotonic() + 1.0)):
                self._arrive(waiting)
            if self._late.lost:
                self.live.drop("late_lost", self._late.lost)
            if self.phases.spent:
                self._table(monotonic_ns(), max(0, self.step), {}, self.phases.take())
            self.event("goodbye", fields)
            self.journal.close()
            self.live.close()

    def descriptors(self) -> Sequence[int]:
        return self.journal.descriptors()


def clean(text: object, most: int) -> str:
    """Return something as text that can travel: valid Unicode, bounded."""
    string = text if isinstance(text, str) else str(text)
    if len(string) > most:
        string = string[: most - 1] + "…"
    return string.encode("utf-8", "replace").decode()


def _cut(pieces: Iterable[bytes]) -> Iterable[tuple[bytes, bool]]:
    """Yield pieces no larger than one may be, and whether each is the last."""
    held: bytes | None = None
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, max(1, len(view)), records.PIECE_BYTES):
            if held is not None:
                yield held, False
            held = bytes(view[start : start + records.PIECE_BYTES])
    yield held if held is not None else b"", True


def media(
    kind: str, tag: str, pieces: bytes | Iterable[bytes], metadata: Mapping[str, object], step: int | None = None
) -> None:
    """Send something large through the session of this process, if there is one."""
    if current is not None:
        current.media(kind, tag, pieces, metadata, step)
