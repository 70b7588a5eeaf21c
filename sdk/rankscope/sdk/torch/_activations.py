"""Dead and saturated units, seen by forward hooks that exist on sampled steps only."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.hooks import RemovableHandle

from rankscope.sdk import _session
from rankscope.sdk.torch._later import Later
from rankscope.sdk.torch._layers import local, modules_of

MOST = 64  # modules that are looked at, evenly spread over the model
ELEMENTS = 1 << 20  # of an output
NEAR_ZERO = 1e-3  # GELU and its like never give exactly 0

_DEAD = {"relu": 0.0, "relu6": 0.0, "squaredrelu": 0.0}
_NEARLY = ("gelu", "silu", "hardswish", "mish")


def _judge(module: Module) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """Return what a module's output tells and how: (kind, share of its units), or None."""
    name = type(module).__name__.lower()
    if name in _DEAD:
        return "dead_fraction", lambda out: _dead(out, 0.0)
    if any(part in name for part in _NEARLY) and not list(module.children()):
        return "dead_fraction", lambda out: _dead(out, NEAR_ZERO)
    if name in ("tanh", "hardtanh"):
        return "saturated_fraction", lambda out: (out.abs() > 0.999).float().mean()
    if name in ("sigmoid", "hardsigmoid"):
        return "saturated_fraction", lambda out: ((out < 0.001) | (out > 0.999)).float().mean()
    return None


def _dead(out: Tensor, near: float) -> Tensor:
    """Return the share of units that give 0 for every sample: channels of images, else the last dimension."""
    unit = 1 if out.ndim >= 4 else out.ndim - 1
    others = [dim for dim in range(out.ndim) if dim != unit]
    return (out.abs().amax(others) <= near).float().mean() if others else (out.abs() <= near).float().mean()


@dataclass
class Activations:
    """The modules of a model whose outputs tell something."""

    model: weakref.ref[Module]
    found: dict[str, tuple[str, Tensor]] = field(default_factory=dict[str, tuple[str, Tensor]])
    _handles: list[RemovableHandle] = field(default_factory=list[RemovableHandle])

    def listen(self) -> int:
        """Begin to look at the next forward pass; return how many modules can be looked at."""
        model = self.model()
        modules = modules_of(model) if model is not None else []
        judged = [(name, module, how) for name, module in modules if (how := _judge(module))]
        stride = -(-len(judged) // MOST) or 1
        for name, module, (kind, share) in judged[::stride]:
            self._handles.append(module.register_forward_hook(self._hook(name, kind, share)))
        return len(judged)

    def _hook(
        self, name: str, kind: str, share: Callable[[Tensor], Tensor]
    ) -> Callable[[Module, tuple[object, ...], object], None]:
        def hook(module: Module, _inputs: tuple[object, ...], output: object) -> None:
            if torch.compiler.is_compiling() or not module.training or name in self.found:
                return
            if isinstance(output, Tensor) and output.is_floating_point() and output.ndim:
                with torch.no_grad():
                    out = local(output.detach())
                    if out.numel():
                        rows = max(1, ELEMENTS * out.shape[0] // out.numel()) if out.ndim > 1 else out.shape[0]
                        self.found[name] = kind, share(out[:rows])

        return hook

    def stop(self) -> dict[str, tuple[str, Tensor]]:
        """Look no longer; return kind and share by module."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        found, self.found = self.found, {}
        return found

    def send(self, later: Later, emit: Callable[[_session.Session, Mapping[str, float]], None]) -> None:
        """Look no longer; tell each module's share and the worst of each kind, once they are there."""
        by_device: dict[torch.device, list[tuple[str, str, Tensor]]] = {}
        for name, (kind, share) in self.stop().items():
            by_device.setdefault(share.device, []).append((kind, name, share))
        order = [(kind, name) for entries in by_device.values() for kind, name, _ in entries]

        def seen(numbers: list[float]) -> None:
            session = _session.current
            if session is None:
                return
            values: dict[str, float] = {}
            for (kind, name), number in zip(order, numbers, strict=True):
                values[f"activations/{name}/{kind}"] = number
                values[kind] = max(values.get(kind, 0.0), number)
            emit(session, values)

        if order:
            later.put([torch.stack([share for _, _, share in entries]) for entries in by_device.values()], seen)
