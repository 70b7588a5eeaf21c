"""Norms of gradients and weights: whole, by layer, before and after clipping, or a rank's share of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rankscope.sdk.torch._layers import Census, Share, norms_of

PER_DEVICE = 3  # sums of squares ahead of those of the layers: gradients before clipping, after it, weights


class Norms:
    """The norms of one step. `layers`: the layer of each parameter; `order`: the layers in the model's order."""

    def __init__(self, census: Census, layers: Mapping[str, str], order: Sequence[str]) -> None:
        self._shares = list(census.shares.values())
        self._layers = layers
        self._here = [list(dict.fromkeys(layers[name] for name in share.names)) for share in self._shares]
        self._trained = list(dict.fromkeys(layers[name] for name in census.trained))
        ends = [layer for layer in order if layer in self._trained] or self._trained
        self._first, self._last = (ends[0], ends[-1]) if ends else ("", "")
        self._suffix = "_share" if census.sharded else ""
        self._clipped = any(norm is not None for share in self._shares for norm in share.clipped)

    def vectors(self, scale: Tensor | None) -> list[Tensor]:
        """Return sums of squares, a vector for each device; `scale` is what the gradients are yet to be divided by."""
        pairs = zip(self._shares, self._here, strict=True)
        return [_squares(share, self._layers, here, scale) for share, here in pairs]

    def values(self, numbers: Sequence[float], prefix: str) -> dict[str, float]:
        """Return what the numbers of all vectors, in order, say under their names.

        The square of a share, added up over all ranks, is the square of the whole norm.
        """
        before = left = weight = 0.0
        layers = dict.fromkeys(self._trained, 0.0)
        start = 0
        for here in self._here:
            before, left, weight = before + numbers[start], left + numbers[start + 1], weight + numbers[start + 2]
            start += PER_DEVICE
            for layer, square in zip(here, numbers[start : start + len(here)], strict=True):
                layers[layer] += square
            start += len(here)
        if not layers:
            return {}
        found = {"grad_norm": before, "weight_norm": weight}
        if self._clipped:
            found["grad_norm_clipped"] = left
        found["first_layer_grad_norm"] = layers[self._first]
        found["last_layer_grad_norm"] = layers[self._last]
        named = {f"{prefix}{name}{self._suffix}": math.sqrt(square) for name, square in found.items()}
        return named | {f"grad_norm{self._suffix}/{layer}": math.sqrt(square) for layer, square in layers.items()}


def _squares(share: Share, layers: Mapping[str, str], order: Sequence[str], scale: Tensor | None) -> Tensor:
    """Return sums of squares: gradients before and after clipping, weights, and each layer's gradients before."""
    device = share.weights[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    norms = norms_of(share.gradients)
    seen = [norm if clipped is None else clipped for norm, clipped in zip(norms, share.clipped, strict=True)]
    gradients = torch.stack([*seen, *norms]).to(wide).reshape(2, len(norms))
    if scale is not None:
        gradients = gradients / scale.to(gradients)
    copies = torch.tensor(share.copies, dtype=wide).to(device, non_blocking=True)
    before, left = gradients.square() / copies
    weights = (torch.stack(norms_of(share.weights)).to(wide).square() / copies).sum()
    places = {layer: i for i, layer in enumerate(order)}
    index = torch.tensor([places[layers[name]] for name in share.names]).to(device, non_blocking=True)
    by_layer = torch.zeros(len(order), dtype=wide, device=device).index_add_(0, index, before)
    return torch.cat([before.sum()[None], left.sum()[None], weights[None], by_layer])
