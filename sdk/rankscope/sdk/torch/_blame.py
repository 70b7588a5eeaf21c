"""The first layer, forward and backward, that produced NaN or infinity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import cast

import torch
from torch import Tensor
from torch.nn import Module

from rankscope.sdk.torch._layers import Census, local, modules_of, plain


def bare(model: Module) -> Module:
    """Return the model itself: without the wrapper of torch.compile and of DDP."""
    inner = cast(Module, getattr(model, "_orig_mod", model))
    return cast(Module, inner.module) if type(inner).__name__ == "DistributedDataParallel" else inner


def explain(model: Module, call: tuple[tuple[object, ...], Mapping[str, object]] | None, census: Census) -> str:
    """Return where the values that are not finite come from, as Markdown; it waits for the device.

    The forward pass is run again on the batch at hand, with nothing recorded, the same random numbers and its buffers
    put back; the gradients are those of the step.
    """
    inner = bare(model)
    lines = [_backward(inner, census)]
    weights = [plain(name) for name, weight in inner.named_parameters() if not _finite(weight)]
    if weights:
        lines.insert(0, f"weights of {len(weights)} parameters are not finite already, first `{weights[0]}`")
    if call is None:
        lines.insert(0, "forward: the batch was not seen, the model was called in a way that hooks do not see")
    elif any(hasattr(parameter, "to_local") for parameter in inner.parameters()):
        lines.insert(0, "forward: not looked at, since the model is sharded: it would take communication")
    else:
        lines.insert(0, _forward(inner, *call))
    return "\n".join(f"- {line}" for line in lines)


def _finite(value: Tensor) -> bool:
    held = local(value.detach())
    return not (held.is_floating_point() and held.device.type != "meta") or bool(torch.isfinite(held).all())


def _backward(model: Module, census: Census) -> str:
    """Return the layer nearest to the loss whose gradient is not finite: there the backward pass broke."""
    order = {plain(name): i for i, (name, _) in enumerate(model.named_parameters())}
    broken = [
        name
        for share in census.shares.values()
        for name, gradient in zip(share.names, share.gradients, strict=True)
        if not _finite(gradient)
    ]
    total = sum(len(share.names) for share in census.shares.values())
    if not broken:
        return "backward: every gradient is finite"
    last = max(broken, key=lambda name: order.get(name, -1))
    where = "all the way from the loss" if len(broken) == total else f"in {len(broken)} of {total} parameters"
    return f"backward: gradients are not finite {where}; nearest to the loss `{last}`"


class _Found(Exception):
    """The first module that gave something that is not finite."""


def _forward(model: Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
    handles = [
        module.register_forward_hook(_check(name or "the model"), with_kwargs=True)
        for name, module in modules_of(model)
        if not any(True for _ in module.children()) or module is model
    ]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    forked = cast("Callable[[list[int]], AbstractContextManager[None]]", vars(torch.random)["fork_rng"])
    try:
        with torch.no_grad(), forked(devices):
            model(*args, **kwargs)
    except _Found as found:
        return f"forward: {found}"
    except (RuntimeError, ValueError, TypeError) as error:
        return f"forward: it cannot be run again: {type(error).__name__}"
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
    return "forward: every layer gives finite values here: it is the loss, the backward pass, or another rank"


def _check(name: str) -> Callable[[Module, tuple[object, ...], dict[str, object], object], None]:
    def hook(module: Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        odd = [value for value in _tensors(output) if not _finite(value)]
        if not odd:
            return
        what = "NaN" if any(bool(torch.isnan(local(value)).any()) for value in odd) else "infinity"
        inputs = all(_finite(value) for value in (*_tensors(args), *_tensors(kwargs)))
        weights = all(_finite(weight) for weight in module.parameters(recurse=False))
        source = "finite inputs" if inputs else "inputs that are not finite already"
        state = "" if weights else " and weights that are not finite"
        raise _Found(f"`{name}` ({type(module).__name__}) is the first to give {what}, from {source}{state}")

    return hook


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in cast("Mapping[object, object]", value).values() for tensor in _tensors(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in cast("list[object]", value) for tensor in _tensors(item)]
    return []
