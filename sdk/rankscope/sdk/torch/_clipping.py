"""Gradient norms as torch's own clipping finds them, before it changes anything."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.optim import Optimizer

from rankscope.sdk import _guard as guard
from rankscope.sdk.torch._layers import local, norms_of
from rankscope.sdk.torch._pace import Pace

# What clip_grad_norm_, clip_grad_value_ and get_total_norm all call with the gradients, whatever name they were
# imported under: the functions themselves could not be watched in a script that says `from ... import clip_grad_norm_`.
SEAM = "_group_tensors_by_device_and_dtype"


class Listener(Protocol):
    """Who wants to know what clipping sees; `pace` is told what that costs."""

    pace: Pace

    def awaits(self) -> bool:
        """True while the coming step is to be sampled: else nothing is measured."""
        ...

    def parameters(self) -> Iterable[Tensor]:
        """Return the parameters whose gradients count."""
        ...


class Clipping:
    """The norms that gradients had when they were clipped first since `forget`, by identity of the parameter."""

    def __init__(self, listener: Listener) -> None:
        self._listener = weakref.ref(listener)
        self.seen: dict[int, Tensor] = {}  # norms in float32, on the gradients' devices

    def forget(self, optimizer: Optimizer | None = None) -> None:
        """Keep nothing of the parameters of an optimizer, or of any."""
        if self.seen and optimizer is None:
            self.seen.clear()
        elif self.seen and optimizer is not None:
            for group in cast("list[dict[str, list[Tensor]]]", optimizer.param_groups):
                for parameter in group["params"]:
                    self.seen.pop(id(parameter), None)

    def look(self, gradients: list[Tensor]) -> None:
        """These are about to be clipped. Waits for nothing: norms stay where the gradients are."""
        listener = self._listener()
        if listener is None or not listener.awaits():
            return
        started = time.perf_counter()
        wanted = {id(gradient) for gradient in gradients}
        by_device: dict[torch.device, list[tuple[int, Tensor]]] = {}
        gradients_of = {id(parameter): parameter.grad for parameter in listener.parameters()}
        for key, gradient in gradients_of.items():
            if gradient is None or id(gradient) not in wanted or gradient.is_sparse or key in self.seen:
                continue
            held = local(gradient.detach())
            if held.numel() and held.device.type != "meta":
                by_device.setdefault(held.device, []).append((key, held))
        for entries in by_device.values():
            norms = norms_of([held for _, held in entries])
            self.seen.update(zip((key for key, _ in entries), norms, strict=True))
        listener.pace.spend(started)


_listening: weakref.WeakSet[Clipping] = weakref.WeakSet()
_wrapped = False


def observe(clipping: Clipping) -> None:
    """Tell of each clipping from now on; where this torch clips in another way, say so."""
    global _wrapped
    _listening.add(clipping)
    if _wrapped:
        return
    original = cast("Callable[..., object] | None", getattr(clip_grad, SEAM, None))
    if original is None:
        guard.warn("watch:clipping", "watch: clipping is not seen with this torch: grad_norm is what clipping left")
        return
    _wrapped = True

    def grouped(tensors: list[list[Tensor]], *args: object, **kwargs: object) -> object:
        if not torch.compiler.is_compiling():
            _tell(tensors)
        return original(tensors, *args, **kwargs)

    setattr(clip_grad, SEAM, grouped)


@guard.guarded(guard.nothing)
def _tell(tensors: list[list[Tensor]]) -> None:
    with torch.no_grad():
        for clipping in list(_listening):
            clipping.look(tensors[0])
