"""A model's parameters as an optimizer holds them: by layer and by device, as far as this process holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

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


@dataclass
class Share:
    """The parameters of an optimizer that lie on one device and have a gradient."""

    names: list[str] = field(default_factory=list[str])
    weights: list[Tensor] = field(default_factory=list[Tensor])
    gradients: list[Tensor] = field(default_factory=list[Tensor])

    def norms(self, layers: dict[str, str], order: Sequence[str], scale: Tensor | None) -> Tensor:
        """Return sums of squares: of all gradients, of all weights, and of the gradients of each layer in `order`."""
        wide = torch.float32 if self.weights[0].device.type == "mps" else torch.float64
        gradients = torch.stack(_norms(self.gradients)).to(wide)
        if scale is not None:
            gradients = gradients / scale.to(gradients)
        squares = gradients.square()
        weights = torch.stack(_norms(self.weights)).to(wide).square().sum()
        places = {layer: i for i, layer in enumerate(order)}
        index = torch.tensor([places[layers[name]] for name in self.names]).to(squares.device, non_blocking=True)
        by_layer = torch.zeros(len(order), dtype=wide, device=squares.device).index_add_(0, index, squares)
        return torch.cat([squares.sum()[None], weights[None], by_layer])


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    """Return the norms of tensors, each in float32 at least, in few kernels."""
    fused = cast("Callable[[list[Tensor], float, torch.dtype], list[Tensor]]", vars(torch)["_foreach_norm"])
    return [norm.float() for norm in fused(tensors, 2, torch.float32)]


@dataclass
class Census:
    """What an optimizer holds at a step."""

    shares: dict[torch.device, Share] = field(default_factory=dict[torch.device, Share])
    parameters: int = 0  # elements that are to be trained
    idle: int = 0  # of those, elements without a gradient
    sharded: bool = False


def census(optimizer: Optimizer, names: dict[int, str]) -> Census:
    """Look at every parameter of an optimizer, groups that were added lately included."""
    found = Census()
    for number, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(cast("list[Tensor]", group["params"])):
            if not parameter.requires_grad:
                continue
            weight = local(parameter.detach())
            found.sharded = found.sharded or weight.shape != parameter.shape
            if weight.device.type == "meta" or not weight.numel():
                continue
            found.parameters += weight.numel()
            gradient = None if parameter.grad is None else local(parameter.grad.detach())
            if gradient is None or gradient.is_sparse:
                found.idle += weight.numel() if gradient is None else 0
                continue
            share = found.shares.setdefault(weight.device, Share())
            share.names.append(names.setdefault(id(parameter), f"group{number}.parameter{place}"))
            share.weights.append(weight)
            share.gradients.append(gradient)
    return found
