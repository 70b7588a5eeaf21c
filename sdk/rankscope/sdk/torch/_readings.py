"""What can be read without computing anything: learning rates, frozen parameters, the allocator's figures."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer


def rates(optimizer: Optimizer, prefix: str) -> dict[str, float]:
    """Return learning rate and weight decay of each parameter group; the first group's have no number."""
    values: dict[str, float] = {}
    for i, group in enumerate(optimizer.param_groups):
        for name, key in (("lr", "lr"), ("weight_decay", "weight_decay")):
            value = cast(object, group.get(key))
            if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.device.type == "cpu"):
                values[prefix + (f"{name}/group{i}" if i else name)] = float(value)
    return values


def frozen(model: Module | None) -> dict[str, float]:
    """Return the share of a model's parameters that are not to be trained."""
    if model is None:
        return {}
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total = sum(size for size, _ in sizes)
    return {"frozen_fraction": sum(size for size, wanted in sizes if not wanted) / total} if total else {}


def memory() -> dict[str, float]:
    """Return what the allocator of the current GPU holds, bytes, and the share of it that is not in use."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    stats = cast("dict[str, int]", torch.cuda.memory_stats())
    allocated, reserved = stats["allocated_bytes.all.current"], stats["reserved_bytes.all.current"]
    return {
        "memory/allocated_bytes": float(allocated),
        "memory/reserved_bytes": float(reserved),
        "memory/peak_bytes": float(stats["allocated_bytes.all.peak"]),
        "memory/fragmentation": 1.0 - allocated / reserved if reserved else 0.0,
    }


def on_host(optimizer: Optimizer) -> bool:
    """True when every gradient lies in the host's memory, where looking at it waits for nothing."""
    groups = cast("list[dict[str, list[Tensor]]]", optimizer.param_groups)
    found = [parameter.grad for group in groups for parameter in group["params"]]
    return all(gradient is None or gradient.device.type == "cpu" for gradient in found)
