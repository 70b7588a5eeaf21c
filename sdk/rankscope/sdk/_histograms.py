"""A histogram of numbers: equal buckets from the lowest to the highest finite value, the others counted apart."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

from rankscope.sdk._images import as_array

BUCKETS = 64


def pack(low: float, high: float, counts: Sequence[float]) -> bytes:
    """Return the upper limits and counts of equal buckets, as the agent reads them."""
    k = len(counts)
    width = (high - low) / k
    limits = [low + width * i for i in range(1, k)] + [high]
    if not all(below < above for below, above in itertools.pairwise(limits)):
        counts, limits = [sum(counts)], [high]  # one value only, or values closer than floats can tell apart
    return struct.pack(f"<{2 * len(limits)}d", *limits, *counts)


def encode(value: object) -> tuple[bytes, dict[str, object]]:
    """Return a histogram of an array, tensor or list, and its metadata. Raises TypeError where there are no numbers."""
    import numpy as np

    array = as_array(value).astype(np.float64).ravel()
    finite = array[np.isfinite(array)]
    metadata: dict[str, object] = {"nonfinite": int(array.size - finite.size)}
    if not finite.size:
        return b"", {**metadata, "min": 0.0, "max": 0.0, "sum": 0.0, "sum_squares": 0.0}
    low, high = float(finite.min()), float(finite.max())
    counts = [float(finite.size)]
    if 0 < high - low < 1e300:
        bucket = ((finite - low) * (BUCKETS / (high - low))).clip(0, BUCKETS - 1).astype(np.int64)
        counts = [float(count) for count in np.bincount(bucket, minlength=BUCKETS)]
    with np.errstate(over="ignore"):
        squares = float(min(np.square(finite).sum(), 1e308))
    metadata |= {"min": low, "max": high, "sum": float(finite.sum()), "sum_squares": squares}
    return pack(low, high, counts), metadata
