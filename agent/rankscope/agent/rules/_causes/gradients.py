"""What the gradients have to do with it."""

from __future__ import annotations

import math

import numpy as np

from rankscope.agent.model import Cause
from rankscope.agent.rules._causes.around import Around, figure

MANY_TIMES = 5.0  # a norm of so many times its usual size is exploding


def growth(here: Around) -> tuple[float, float] | None:
    """Return usual and largest gradient norm just before and at the step, or None where it is not known."""
    usual, peak = here.usual("grad_norm"), here.peak("grad_norm")
    if usual is None or peak is None:
        return None
    return usual, peak


def exploding(here: Around) -> Cause | None:
    """The gradient explodes. Contradicted by gradient norms that stay as they were up to the step before."""
    found = growth(here)
    if found is None:
        return None
    usual, _ = found
    just_before = here.before("grad_norm", 8)
    finite = just_before[np.isfinite(just_before)]
    top = float(finite.max()) if len(finite) else 0.0
    at = here.at("grad_norm")
    if at is not None and math.isfinite(at):
        top = max(top, at)
    if top < MANY_TIMES * usual:
        return None
    return Cause(
        "the gradient explodes",
        f"the gradient norm went from {figure(usual)}, its median before, to {figure(top)} "
        f"({figure(top / usual)} times)"
        if usual > 0
        else f"the gradient norm went from 0 to {figure(top)}",
        f"clip the gradient norm, to about {figure(2 * usual)} for example, and lower the learning rate",
    )
