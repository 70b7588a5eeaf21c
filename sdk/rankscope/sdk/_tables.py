"""Tables as CSV: of rows, of columns, or of a data frame."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

MAX_ROWS = 100_000


def encode(value: object) -> bytes:
    """Return a table as CSV with a header. Raises TypeError where it is none.

    A table is a data frame, a mapping of columns, a list of mappings, or a list of rows whose first is the header.
    """
    header, rows = _rows(value)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    for number, row in enumerate(rows):
        if number >= MAX_ROWS:
            break
        writer.writerow([_cell(cell) for cell in row])
    return file.getvalue().encode("utf-8", "replace")


def _rows(value: object) -> tuple[Sequence[object], Iterable[Iterable[object]]]:
    if hasattr(value, "columns") and hasattr(value, "itertuples"):  # pandas
        frame = cast(Any, value)
        return list(frame.columns), frame.itertuples(index=False)
    if hasattr(value, "columns") and hasattr(value, "iter_rows"):  # polars
        frame = cast(Any, value)
        return list(frame.columns), frame.iter_rows()
    if isinstance(value, Mapping):
        columns = cast("Mapping[str, Iterable[object]]", value)
        return list(columns), zip(*columns.values(), strict=False)
    given = list(itertools.islice(cast("Iterable[object]", value), MAX_ROWS + 1))  # of what may never end
    if given and isinstance(given[0], Mapping):
        mappings = cast("list[Mapping[str, object]]", given)
        header = list(dict.fromkeys(name for row in mappings for name in row))
        return header, ([row.get(name, "") for name in header] for row in mappings)
    if given and all(isinstance(row, (list, tuple)) for row in given):
        rows = cast("list[Sequence[object]]", given)
        return rows[0], rows[1:]
    raise TypeError("a table is a data frame, a dict of columns, a list of dicts or a list of rows")


def _cell(value: object) -> object:
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", 1) == 0:
        return item()
    return value
