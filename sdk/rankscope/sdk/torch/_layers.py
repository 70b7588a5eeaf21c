"""A model's parameters as an optimizer holds them: by layer and by device, as far as this process holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

MOST_LAYERS = 100
SAMPLE = 4096  # elements of a parameter that are compared before and after a step


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: the shard of a DTensor, else the tensor itself."""
    to_local = getattr(tensor, "to_local", None)
    return cast(Tensor, to_local()) if to_local is not None else tensor


def plain(name: str) -> str:
    """Return a parameter's or module's name without what wrappers put into it."""
    parts = [part for part in name.split(".") if part not in ("_orig_mod", "_fsdp_wrapped_module")]
    return ".".join(parts[1:] if parts and parts[0] == "module" else parts)


def modules_of(model: Module) -> list[tuple[str, Module]]:
    """Return a model's modules with their names, the model itself first."""
    named = cast("Callable[[], Iterable[tuple[str, Module]]]", model.named_modules)
    return [(plain(name), module) for name, module in named()]


def names_of(model: Module) -> dict[int, str]:
    """Return the names of a model's parameters by their identity; shared ones have one name."""
    return {id(parameter): plain(name) for name, parameter in model.named_parameters()}


def layers_of(names: Iterable[str]) -> dict[str, str]:
    """Return the layer of each parameter: its module, or an ancestor where there would be too many layers."""
    paths = {name: name.split(".")[:-1] or [name] for name in names}
    depth = max((len(path) for path in paths.values()), default=1)
    while depth > 1 and len({tuple(path[:depth]) for path in paths.values()}) > MOST_LAYERS:
        depth -= 1
    return {name: ".".join(path[:depth]) for name, path in paths.items()}


def flat(tensor: Tensor) -> Tensor | None:
    """Return a tensor's elements as one dimension without a copy, or None where they do not lie together."""
    if tensor.numel() == 0 or tensor.is_sparse or tensor.device.type == "meta":
        return None
    if tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
    return None


def thin(tensor: Tensor, most: int) -> Tensor:
    """Return at most about `most` elements of a flat tensor, evenly spread, without a copy."""
    return tensor[:: max(1, -(-tensor.numel() // most))]


def norms_of(tensors: list[Tensor]) -> list[Tensor]:
    """Return the norms of tensors of one device, each in float32 at least, in few kernels."""
    fused = cast("Callable[[list[Tensor], float, torch.dtype], list[Tensor]]", vars(torch)["_foreach_norm"])
    return [norm.float() for norm in fused(tensors, 2, torch.float32)]


def spans(parameter: Tensor) -> tuple[int, int]:
    """Return over how many ranks a parameter is spread, and how many ranks hold the same piece of it.

    Read off a DTensor's placements; any other tensor is whole: (1, 1), although data parallel ranks have copies.
    """
    mesh = cast("Mesh | None", getattr(parameter, "device_mesh", None))
    spread = copies = 1
    for dim, placement in enumerate(cast("Iterable[Placement]", getattr(parameter, "placements", ())) if mesh else ()):
        assert mesh is not None
        if placement.is_replicate():
            copies *= mesh.size(dim)
        else:
            spread *= mesh.size(dim)
    return spread, copies


class Mesh(Protocol):
    def size(self, dim: int) -> int: ...


class Placement(Protocol):
    def is_replicate(self) -> bool: ...


@dataclass
class Share:
    """The parameters of an optimizer that lie on one device and have a gradient."""

    names: list[str] = field(default_factory=list[str])
    weights: list[Tensor] = field(default_factory=list[Tensor])
    gradients: list[Tensor] = field(default_factory=list[Tensor])
    clipped: list[Tensor | None] = field(default_factory=list["Tensor | None"])  # norms that clipping saw
    copies: list[int] = field(default_factory=list[int])  # ranks of a sharded model that hold the same elements


@dataclass
class Census:
    """What an optimizer holds at a step."""

    shares: dict[torch.device, Share] = field(default_factory=dict[torch.device, Share])
    trained: list[str] = field(default_factory=list[str])  # with a gradient, though maybe none of it is held here
    parameters: int = 0  # elements that are to be trained
    idle: int = 0  # of those, elements without a gradient
    sharded: bool = False


def census(optimizer: Optimizer, names: dict[int, str], clipped: Mapping[int, Tensor] | None = None) -> Census:
    """Look at every parameter of an optimizer, groups that were added lately included.

    `clipped`: the norms that clipping saw, by identity of the parameter.
    """
    found = Census()
    extents: list[tuple[Share, int, int]] = []
    widest = 1
    for number, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(cast("list[Tensor]", group["params"])):
            if not parameter.requires_grad:
                continue
            spread, copies = spans(parameter)
            widest = max(widest, spread * copies)
            found.sharded = found.sharded or spread > 1
            weight = local(parameter.detach())
            if weight.device.type == "meta":
                continue
            name = names.setdefault(id(parameter), f"group{number}.parameter{place}")
            found.parameters += weight.numel()
            gradient = None if parameter.grad is None else local(parameter.grad.detach())
            if gradient is None or gradient.is_sparse:
                found.idle += weight.numel() if gradient is None else 0
                continue
            found.trained.append(name)
            if not weight.numel():
                continue
            share = found.shares.setdefault(weight.device, Share())
            share.names.append(name)
            share.weights.append(weight)
            share.gradients.append(gradient)
            share.clipped.append(clipped.get(id(parameter)) if clipped else None)
            extents.append((share, spread, copies))
    for share, spread, copies in extents:  # what is whole in a sharded model is so on every rank of it
        share.copies.append(1 if not found.sharded else copies if spread * copies > 1 else widest)
    return found
