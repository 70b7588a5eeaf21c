"""Bars and curves of one line, readable without colours too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from rich.text import Text

EIGHTHS = " ▏▎▍▌▋▊▉█"
HEIGHTS = "▁▂▃▄▅▆▇█"
PHASES = {
    "data": "#f29e38",
    "forward": "#3b9eff",
    "backward": "#2465b8",
    "optimizer": "#3dbb7d",
    "eval": "#a78bfa",
    "comm": "#e0607e",
    "checkpoint": "#c9a227",
}
OTHER = "#8f9bb3"
UNTIMED = "#4a5265"


def bar(ratio: float | None, width: int, style: str) -> Text:
    """Return a bar of `width` cells, filled to eighths of a cell."""
    filled = 0.0 if ratio is None or not math.isfinite(ratio) else min(1.0, max(0.0, ratio)) * width
    full = int(filled)
    part = EIGHTHS[round((filled - full) * 8)].strip()
    drawn = "█" * full + part
    return Text.assemble((drawn, style), ("·" * (width - len(drawn)), "bright_black"))


def curve(values: Sequence[float], width: int, style: str = "cyan") -> Text:
    """Return values, oldest first, as heights between their least and greatest; × is one that is not finite.

    Where all are positive the heights are those of their logarithms: a loss that began high still shows how it goes on.
    """
    shown = _thinned(values, width)
    finite = [value for value in shown if math.isfinite(value)]
    if finite and min(finite) > 0:
        shown = [math.log(value) if math.isfinite(value) else value for value in shown]
        finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    drawn = Text()
    for value in shown:
        if math.isfinite(value):
            level = 0.0 if high == low else (value - low) / (high - low)
            drawn.append(HEIGHTS[min(7, int(level * 8))], style)
        else:
            drawn.append("×", "bold red")
    return drawn.append(" " * (width - len(shown)))


def _thinned(values: Sequence[float], width: int) -> list[float]:
    """Return at most `width` values, each the mean of those it stands for."""
    if len(values) <= width:
        return list(values)
    edges = [i * len(values) // width for i in range(width + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]


def phases(shares: Mapping[str, float], width: int, *, colour: bool) -> Text:
    """Return the phases of a step side by side; without colours each is the first letter of its name."""
    names = ordered(shares)
    cells = dict(zip(names, _cells([shares[name] for name in names], width), strict=True))
    drawn = Text()
    for name, count in cells.items():
        drawn.append(("█" if colour else letter(name)) * count, PHASES.get(name, OTHER))
    return drawn.append(("░" if colour else "·") * (width - len(drawn)), UNTIMED)


def ordered(names: Mapping[str, float]) -> list[str]:
    """Return phases as they follow each other in a step, those with a name of their own last."""
    known = [name for name in PHASES if name in names]
    return known + sorted(set(names) - set(known))


def letter(phase: str) -> str:
    return phase[:1] or "?"


def legend(names: Sequence[str], *, colour: bool) -> Text:
    """Return what the cells of `phases` mean."""
    parts = [Text.assemble(("■" if colour else letter(name), PHASES.get(name, OTHER)), f" {name}") for name in names]
    return Text("  ").join(parts)


def _cells(shares: Sequence[float], width: int) -> list[int]:
    """Return whole cells for ratios: their ends are rounded, so that errors do not add up."""
    ends, total = [0], 0.0
    for share in shares:
        total += share if math.isfinite(share) else 0.0
        ends.append(min(width, round(total * width)))
    return [end - start for start, end in pairwise(ends)]
