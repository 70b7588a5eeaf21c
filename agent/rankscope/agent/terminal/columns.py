"""Rows in columns that fit a width: what matters least goes first where there is too little of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.text import Text

Cell: TypeAlias = "Text | str | Callable[[int], Text]"
"""What stands in a column; a column that stretches asks for it by its width."""

GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column. Of several, the one with the greatest `rank` is left out first; 0 stays always.

    `least` is its least width; up to `most` it stretches while there is room.
    """

    name: str
    title: str = ""
    right: bool = False
    rank: int = 0
    least: int = 0
    most: int = 0


def lines(columns: Sequence[Column], rows: Sequence[Mapping[str, Cell]], width: int) -> tuple[Text, list[Text]]:
    """Return a line of titles and one for each row, cut to `width`; columns that no row has are left out."""
    kept = [column for column in columns if any(column.name in row for row in rows)]
    widths = {column.name: _width(column, rows) for column in kept}
    for column in sorted(kept, key=lambda each: -each.rank):
        if not column.rank or _total(kept, widths) <= width:
            break
        kept.remove(column)
    _stretch(kept, widths, width)
    titles: dict[str, Cell] = {column.name: Text(column.title, "dim") for column in kept}
    return _line(kept, widths, titles, width), [_line(kept, widths, row, width) for row in rows]


def _width(column: Column, rows: Sequence[Mapping[str, Cell]]) -> int:
    if column.most:
        return max(column.least, len(column.title))
    cells = [_text(row.get(column.name, ""), 0).cell_len for row in rows]
    return max(column.least, len(column.title), *cells)


def _total(columns: Sequence[Column], widths: Mapping[str, int]) -> int:
    return sum(widths[column.name] for column in columns) + GAP * (len(columns) - 1)


def _stretch(columns: Sequence[Column], widths: dict[str, int], width: int) -> None:
    """Give what is left of the width to those that can use it, evenly."""
    while hungry := [column for column in columns if widths[column.name] < column.most]:
        spare = width - _total(columns, widths)
        if spare <= 0:
            return
        for column in hungry[:spare]:
            more = max(1, spare // len(hungry))
            widths[column.name] = min(column.most, widths[column.name] + more)


def _line(columns: Sequence[Column], widths: Mapping[str, int], row: Mapping[str, Cell], width: int) -> Text:
    line = Text(no_wrap=True)
    for i, column in enumerate(columns):
        size = widths[column.name]
        cell = _text(row.get(column.name, ""), size)
        cell.truncate(size, overflow="ellipsis")
        space = " " * (size - cell.cell_len)
        line.append(" " * (GAP if i else 0))
        line.append_text(Text(space) + cell if column.right else cell + Text(space))
    line.truncate(width, overflow="ellipsis")
    line.rstrip()
    return line


def _text(cell: Cell, width: int) -> Text:
    if callable(cell):
        return cell(width)
    return cell.copy() if isinstance(cell, Text) else Text(cell)
