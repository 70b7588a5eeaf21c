"""What the columns for step, time and rank are called in records of all kinds."""

from __future__ import annotations

from rankscope.agent.runs.roles import fold

STEP = ("step", "global_step", "_step", "iteration", "iter", "steps")
TIME = ("t", "time", "timestamp", "_timestamp", "wall_time")
RANK = ("rank",)


def column(names: list[str], known: tuple[str, ...]) -> str | None:
    """Return the first of the names that is known, whatever its case and separators."""
    folded = {fold(name): name for name in reversed(names)}
    return next((folded[fold(name)] for name in known if fold(name) in folded), None)
