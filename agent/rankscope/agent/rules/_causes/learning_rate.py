"""What the learning rate has to do with it."""

from __future__ import annotations

import math

import numpy as np

from rankscope.agent.model import Cause
from rankscope.agent.rules._causes.around import Around, figure

RISE = 1.5  # a learning rate that grew by so much over the last points is rising: a warm-up or a restart
JUMP = 3.0  # so many times its value from one point to the next, where it had hardly moved before, is no warm-up
STEADY = 1.2  # so much it may have moved from one point to the next before a jump, up or down


def rising(here: Around, points: int = 32) -> bool:
    """Tell whether the learning rate was going up when it happened."""
    values = here.before("lr", points)
    values = values[np.isfinite(values)]
    if len(values) < 2 or values[-1] <= 0:
        return False
    return bool(values[-1] > RISE * values[0] or (values[-1] > values[0] and values[0] <= 0))


def jump(here: Around, points: int = 32) -> tuple[float, float] | None:
    """Return the learning rate before and after it jumped, shortly before it happened or as it did; None if not."""
    at = here.at("lr")
    values = np.append(here.before("lr", points), [] if at is None else at)
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) < 4:
        return None
    times = values[1:] / values[:-1]
    place = int(np.argmax(times))
    before = times[max(0, place - 8) : place]
    if times[place] < JUMP or len(before) < 2 or before.max() > STEADY or before.min() < 1 / STEADY:
        return None
    return float(values[place]), float(values[place + 1])


def too_large(here: Around) -> Cause | None:
    """The steps are too large. Contradicted where the learning rate is known to be 0."""
    rate = here.recent("lr")
    if rate is not None and rate <= 0:
        return None
    evidence = [] if rate is None else [f"the learning rate was {figure(rate)}"]
    fix = "lower the learning rate 3 to 10 times"
    if (jumped := jump(here)) is not None:
        evidence.append(f"it had jumped from {figure(jumped[0])} to {figure(jumped[1])}")
        fix = (
            f"find what raised the learning rate from {figure(jumped[0])}: a restart of the schedule, a resume with "
            "another one, a wrong unit or world size"
        )
    elif rising(here):
        evidence.append("it was still going up in its warm-up or after a restart of its schedule")
        fix = f"lower the peak learning rate below {figure(rate or 0)}, or make the warm-up longer"
    losses = here.before("loss", 24)
    losses = losses[np.isfinite(losses)]
    if len(losses) >= 8:
        # The median of the newest third: the first points of a jump, told of a moment later, are no rise before it.
        older = float(np.median(losses[: len(losses) // 2]))
        newer = float(np.median(losses[-max(4, len(losses) // 3) :]))
        if newer > older + 2 * float(np.std(losses[: len(losses) // 2])):
            evidence.append(f"the loss was rising before, from {figure(older)} to {figure(newer)}")
    if rate is None:
        evidence.append("log lr to tell" if evidence else "nothing logged speaks against it; log lr to tell")
    return Cause("the learning rate is too large", "; ".join(evidence), fix)


def too_small(here: Around, initial: float | None = None) -> Cause | None:
    """The steps are too small to move the loss. Contradicted by an update ratio that is not small."""
    rate, ratio = here.recent("lr"), here.usual("update_ratio")
    if ratio is not None and ratio >= 1e-5:
        return None
    if rate is None and ratio is None:
        return None
    evidence = f"the learning rate is {figure(rate)}" if rate is not None else ""
    if ratio is not None:
        evidence += (
            f"{'; ' if evidence else ''}a step changes the weights by {figure(ratio)} of their size, 1e-3 is usual"
        )
    if rate is not None and rate == 0:
        return Cause("the learning rate is 0", evidence, "check the schedule: it has ended, or its warm-up never began")
    goal = f" to about {figure(rate * 10)}" if rate is not None and math.isfinite(rate) else ""
    return Cause("the learning rate is too small", evidence, f"raise the learning rate 10 times{goal}")
