"""Something that fills up: whether it does, how fast, and when it will be full."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from rankscope.agent.model import FloatArray


class Filling(NamedTuple):
    rate: float  # units a second
    seconds: float  # until it is full at this rate


def filling(time: FloatArray, value: FloatArray, full: float) -> Filling | None:
    """Return how something fills up to `full`, None where it does not, or not steadily.

    Steadily: the median of each quarter of the points is above that of the quarter before, the last one by at least a
    quarter of the mean step: what grew and then stopped does not fill up. The rate is that between the medians. What is
    low in each quarter must have grown by half of that at least: what falls back again and again does not fill up.
    """
    if len(value) < 20 or time[-1] <= time[0]:
        return None
    bounds = [len(value) * i // 4 for i in range(5)]
    medians: FloatArray = np.array([float(np.median(value[a:b])) for a, b in itertools.pairwise(bounds)])
    centres: FloatArray = np.array([float(np.median(time[a:b])) for a, b in itertools.pairwise(bounds)])
    steps: FloatArray = np.diff(medians)
    if steps.min() <= 0 or steps[-1] < 0.25 * steps.mean():
        return None
    first, last = (float(np.quantile(value[bounds[i] : bounds[i + 1]], 0.1)) for i in (0, 3))
    if last - first < 0.5 * (medians[-1] - medians[0]):
        return None
    rate = float((medians[-1] - medians[0]) / (centres[-1] - centres[0]))
    return Filling(rate, max(0.0, (full - float(value[-1])) / rate))


def minutes(seconds: float) -> str:
    """Return a time to go, as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gigabytes(amount: float) -> str:
    """Return bytes as `3.2 GiB`, or as MiB where that is less than one."""
    return f"{amount / 2**30:.1f} GiB" if abs(amount) >= 2**30 else f"{amount / 2**20:.0f} MiB"
