"""Histograms computed where the numbers are."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from rankscope.sdk import _session
from rankscope.sdk._histograms import BUCKETS, pack
from rankscope.sdk.torch._later import Later, Then
from rankscope.sdk.torch._layers import Census, flat, thin

SAMPLE = 8192  # elements that a histogram is made of, evenly spread


def spread(elements: Tensor) -> Tensor:
    """Return lowest, highest, sum, sum of squares, how many are not finite, how many there are; then the buckets."""
    wide = torch.float32 if elements.device.type == "mps" else torch.float64
    values = thin(elements, SAMPLE).to(wide)
    finite = torch.isfinite(values)
    some = torch.where(finite, values, torch.zeros((), dtype=wide, device=values.device))
    low = torch.where(finite, values, torch.full((), torch.inf, dtype=wide, device=values.device)).min()
    high = torch.where(finite, values, torch.full((), -torch.inf, dtype=wide, device=values.device)).max()
    width = torch.clamp(high - low, min=1e-300 if wide is torch.float64 else 1e-38)
    bucket = ((some - low) / width * BUCKETS).nan_to_num(0.0).clamp(0, BUCKETS - 1).long()
    counts = torch.zeros(BUCKETS, dtype=wide, device=values.device).index_add_(0, bucket, finite.to(wide))
    odd = (~finite).sum().to(wide)
    head = torch.stack([low, high, some.sum(), some.square().sum(), odd, torch.full_like(odd, elements.numel())])
    return torch.cat([head, counts])


NUMBERS = 6 + BUCKETS


def unpack(numbers: list[float]) -> tuple[bytes, dict[str, object]]:
    """Return a histogram as the agent reads it, and its metadata; counts stand for all elements."""
    low, high, total, squares, odd, elements, *counts = numbers
    taken = sum(counts) + odd
    factor = elements / taken if taken else 1.0
    metadata: dict[str, object] = {"nonfinite": round(odd * factor)}
    if taken == odd:
        return b"", {**metadata, "min": 0.0, "max": 0.0, "sum": 0.0, "sum_squares": 0.0}
    metadata |= {"min": low, "max": high, "sum": total * factor, "sum_squares": squares * factor}
    scaled = [count * factor for count in counts]
    return (pack(low, high, scaled) if high > low else struct.pack("<2d", high, sum(scaled))), metadata


def send(found: Census, first: int, most: int, step: int, later: Later) -> None:
    """Send histograms of `most` parameters and their gradients, from the `first` one on, over and over."""
    triples = [
        triple
        for share in found.shares.values()
        for triple in zip(share.names, share.weights, share.gradients, strict=True)
    ]
    for i in range(min(most, len(triples))):
        name, weight, gradient = triples[(first + i) % len(triples)]
        for kind, tensor in (("weights", weight), ("gradients", gradient)):
            elements = flat(tensor)
            if elements is not None:
                later.put([spread(elements)], _sender(f"{kind}/{name}", step))


def _sender(tag: str, step: int) -> Then:
    def sent(numbers: list[float]) -> None:
        data, metadata = unpack(numbers)
        _session.media("histogram", tag, data, metadata, step)

    return sent
