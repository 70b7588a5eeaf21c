"""Whether what was sampled last is evidence of now."""

from __future__ import annotations

import numpy as np

from rankscope.agent.runs.series import Series


def fresh(series: Series | None, now: float, seconds: float = 30.0) -> bool:
    """Say whether a series has a value of the last `seconds`, or of the last three intervals where those are longer."""
    if series is None or not len(series):
        return False
    apart = np.diff(series.time[-8:])  # the least of them: a sampler that hung once is not one that is asked seldom
    return bool(now - series.time[-1] <= max(seconds, 3 * float(apart.min()) if len(apart) else 0.0))
