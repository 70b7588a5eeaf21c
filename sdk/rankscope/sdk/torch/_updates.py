"""How much a step changes the weights: a sample of each parameter, before and after."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.sdk.torch._layers import SAMPLE, Census, flat, thin


class Before:
    """A sample of the weights before a step: at most some thousand elements of each parameter."""

    def __init__(self, census: Census) -> None:
        self._views: list[list[Tensor]] = []
        self._copies: list[Tensor] = []
        self._sizes: list[list[int]] = []
        self.idle = float(census.idle)
        self.trains = bool(census.trained or census.idle)  # False: the optimizer holds frozen parameters only
        for share in census.shares.values():
            found = [(whole, thin(whole, SAMPLE)) for weight in share.weights if (whole := flat(weight)) is not None]
            if found:
                self._views.append([view for _, view in found])
                self._sizes.append([whole.numel() for whole, _ in found])
                self._copies.append(torch.cat(self._views[-1]))

    def compare(self) -> list[Tensor]:
        """Return, for each device: sums of squares of changes and of weights, elements unchanged, elements.

        Sums stand for the whole parameters. A parameter counts as unchanged when no element of its sample changed.
        """
        return [
            _compare(views, before, sizes)
            for views, before, sizes in zip(self._views, self._copies, self._sizes, strict=True)
        ]


def _compare(views: list[Tensor], before: Tensor, sizes: list[int]) -> Tensor:
    wide = torch.float32 if before.device.type == "mps" else torch.float64
    counts = [view.numel() for view in views]
    change = (torch.cat(views).to(wide) - before.to(wide)).square()
    segments = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(
        before.device, non_blocking=True
    )
    each = torch.zeros(2, len(counts), dtype=wide, device=before.device)
    each[0].index_add_(0, segments, change)
    each[1].index_add_(0, segments, before.to(wide).square())
    size = torch.tensor(sizes, dtype=wide).to(before.device, non_blocking=True)
    factor = torch.tensor([whole / count for whole, count in zip(sizes, counts, strict=True)], dtype=wide)
    total = each @ factor.to(before.device, non_blocking=True)
    unchanged = (size * (each[0] == 0)).sum()
    return torch.cat([total, unchanged[None], size.sum()[None]])
