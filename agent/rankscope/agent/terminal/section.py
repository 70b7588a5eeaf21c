"""A part of the picture: a title, how many lines it wants, and how it is drawn in so many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text

SEVERITIES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


@dataclass(frozen=True, slots=True)
class Frame:
    """What all parts of a picture share. `now`: Unix seconds of the agent's clock."""

    now: float
    width: int
    colour: bool
    live: bool = False  # redrawn again and again


@dataclass(frozen=True, slots=True)
class Section:
    """`draw` gives at most as many lines as it is told; `wanted` and `least` do not count the title."""

    title: Text
    wanted: int
    least: int
    draw: Callable[[int], list[Text]]


def rule(title: Text, width: int) -> Text:
    """Return a line with a title in it."""
    line = Text.assemble(("── ", "bright_black"), title, " ", no_wrap=True)
    return line.append("─" * max(0, width - line.cell_len), "bright_black")


def joined(parts: list[Text], width: int, gap: int = 2) -> Text:
    """Return as many parts as fit beside each other, in order."""
    line = Text(no_wrap=True)
    for part in parts:
        if line and line.cell_len + gap + part.cell_len > width:
            continue
        line.append(" " * gap if line else "").append_text(part)
    line.truncate(width, overflow="ellipsis")
    return line
