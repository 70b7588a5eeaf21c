"""Pressure stall information: how long tasks waited for a resource."""

from __future__ import annotations

from collections.abc import Iterator


def stalls(text: str) -> Iterator[tuple[str, float]]:
    """Yield `some` and `full` with the seconds stalled so far, from a pressure file's text.

    Format: docs.kernel.org/accounting/psi.html, `some avg10=0.31 avg60=0.61 avg300=0.43 total=11964877`; total is in
    microseconds.
    """
    for line in text.splitlines():
        words = line.split()
        total = next((word[6:] for word in words if word.startswith("total=")), "")
        if words and words[0] in ("some", "full") and total.isdigit():
            yield words[0], int(total) / 1e6
