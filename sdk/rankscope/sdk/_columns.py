"""What is logged together becomes the columns of a row, laid out once and then only filled in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from rankscope.sdk import _guard as guard
from rankscope.sdk import _records as records
from rankscope.sdk._journal import Journal
from rankscope.sdk._live import Live
from rankscope.sdk._records import Column, Shape

MAX_NAMES = 5_000
MAX_NAME = 256  # characters
MAX_CELLS = 200_000  # columns of all layouts together: beyond it rows are split into single values

Names: TypeAlias = "tuple[str, ...] | tuple[tuple[str, ...], tuple[str, ...]]"  # scalars, or scalars and phases
Layout: TypeAlias = "tuple[int, int, Callable[..., None]]"  # bytes of the row, number of its shape, pack_into
Row: TypeAlias = "tuple[Layout, Sequence[float]]"


class Columns:
    """The layouts of a session. `known` is what the hot path looks at: layouts by the names that come together."""

    def __init__(self, journal: Journal, live: Live) -> None:
        self.known: dict[Names, Layout] = {}
        self._journal = journal
        self._live = live
        self._layouts: dict[tuple[bool, tuple[Column, ...]], Layout] = {}
        self._names: set[Column] = set()
        self._logged: set[str] = set()
        self._cells = 0
        self._numbers = itertools.count()  # drawn at once: a signal handler that logs may lay out a row meanwhile

    def rows(self, values: Mapping[str, float], spent: Mapping[str, float] | None, late: bool = False) -> Iterable[Row]:
        """Return layout and cells of the row that holds the values and phases of a step.

        It is none where all of it has to be dropped, and several where there are too many combinations of names.
        """
        columns = [Column(name) for name in values]
        cells: list[float] = list(values.values())
        names: Names = tuple(values)
        if spent:
            names = (tuple(values), tuple(spent))
            columns += [Column(name, "phase") for name in spent]
            cells += spent.values()
        kept = [(column, cell) for column, cell in zip(columns, cells, strict=True) if self._admit(column)]
        if not kept:
            return []
        if self._cells + len(kept) > MAX_CELLS and (late, tuple(column for column, _ in kept)) not in self._layouts:
            split = [(self._layout((column,), late), (cell,)) for column, cell in kept]
            return [(layout, row) for layout, row in split if layout is not None]
        layout = self._layout(tuple(column for column, _ in kept), late)
        if layout is None:
            return []
        if len(kept) == len(columns) and not late:
            self.known[names] = layout
        return [(layout, [cell for _, cell in kept])]

    def knows(self, name: str) -> bool:
        """True when a scalar of this name came in a row of its own step, as the user's do."""
        return name in self._logged

    def _admit(self, column: Column) -> bool:
        """True for a name that is known, or may still become so."""
        if column in self._names:
            return True
        fits = 0 < len(column.name) <= MAX_NAME
        if not fits or len(self._names) >= MAX_NAMES:
            why = f"there are {MAX_NAMES} names already" if fits else f"a name has 1 to {MAX_NAME} characters"
            self._live.drop("too_many_names", 1)
            guard.warn("too_many_names", f"sdk.log: {column.name[:64]!r} is dropped: {why}")
            return False
        self._names.add(column)
        return True

    def _layout(self, columns: tuple[Column, ...], late: bool) -> Layout | None:
        """Return the layout of a row, writing down a new one; None, with its values counted, when the disk is full."""
        layout = self._layouts.get((late, columns))
        if layout is None:
            packer = records.row_struct(len(columns))
            number = next(self._numbers)
            try:
                self._journal.shape(Shape(number, columns, late))
            except OSError as error:
                self._live.drop("disk_full", len(columns))
                folder = self._journal.folder
                guard.warn("disk_full", f"points are dropped: cannot write to {folder}: {error.strerror or error}")
                return None
            if not late:
                self._logged.update(column.name for column in columns if column.kind != "phase")
            layout = self._layouts[late, columns] = (packer.size, number, packer.pack_into)
            self._cells += len(columns)
        return layout
