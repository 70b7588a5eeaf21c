"""Numbers, times and names as a narrow column shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence

NONE = "–"


def number(value: float | None, digits: int = 4) -> str:
    """Return so many significant digits, always as many, so that columns do not jump; what is missing is a dash."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return "0" if value == 0 else f"{value:#.{digits}g}".removesuffix(".")


def whole(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f}"


def percent(ratio: float | None) -> str:
    return NONE if ratio is None or not math.isfinite(ratio) else f"{ratio:.0%}"


def duration(seconds: float) -> str:
    """Return `45s`, `3m 12s`, `2h 13m` or `5d 3h`."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left}s"
    for name, size, below, smaller in (("m", 60, "s", 1), ("h", 3600, "m", 60)):
        if left < size * (60 if name == "m" else 24):
            return f"{left // size}{name} {left % size // smaller:02}{below}"
    return f"{left // 86400}d {left % 86400 // 3600:02}h"


def gibibytes(count: float | None) -> str:
    return NONE if count is None else f"{count / 2**30:.1f}"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def counted(words: Sequence[str]) -> str:
    """Return `all running`, or `3 running, 1 silent`."""
    found = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
    return f"all {words[0]}" if len(found) == 1 else ", ".join(found)


def spread(values: Sequence[float | None], digits: int = 4) -> str:
    """Return the least and the greatest of some values as `2.10–2.34`; one that is not finite is named."""
    known = [value for value in values if value is not None]
    finite = sorted(value for value in known if math.isfinite(value))
    odd = len(known) - len(finite)
    ends = [number(value, digits) for value in (finite[:1] + finite[-1:])]
    words = "–".join(dict.fromkeys(ends))
    return f"{words}, {odd} not finite".lstrip(", ") if odd else words
