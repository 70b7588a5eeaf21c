"""Trains under DDP or FSDP2 with watch(); writes what this rank sent, and the norms that a hand-written loop reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from rankscope import sdk
from rankscope.sdk.testing import capture
from rankscope.sdk.torch import _pace

NORMS = ("grad_norm", "grad_norm_clipped", "weight_norm", "first_layer_grad_norm", "last_layer_grad_norm")


def whole(tensors: list[Any]) -> float:
    """Return the norm of tensors, put together with torch's own communication where they are sharded."""
    full = [t.full_tensor() if hasattr(t, "full_tensor") else t for t in tensors]
    return float(torch.cat([t.detach().flatten() for t in full]).norm())


def gradients(module: nn.Module) -> list[Any]:
    return [p.grad for p in module.parameters()]


def network(kind: str) -> tuple[nn.Module, list[nn.Module]]:
    """Return a model and its layers. Of the first one's single row FSDP leaves nothing for the second rank."""
    layers = [nn.Linear(8, 1), nn.Linear(1, 64), nn.Linear(64, 4)]
    model = nn.Sequential(layers[0], layers[1], nn.ReLU(), layers[2])
    if kind == "ddp":
        return DistributedDataParallel(model), list(layers)
    ranks = dist.get_world_size()
    names = ("replicate", "shard")
    mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=names) if kind == "hybrid" else None
    for layer in layers[:2]:  # the last one stays whole on each rank
        fully_shard(layer, mesh=mesh or init_device_mesh("cpu", (ranks,)))
    return model, list(layers)


def main(kind: str, folder: str) -> None:
    dist.init_process_group("gloo")
    _pace.BUDGET = 1e9
    torch.manual_seed(0)
    model, layers = network(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reference: dict[str, list[float]] = {name: [] for name in NORMS}
    with capture() as sent:
        sdk.watch(model, optimizer, every=2)
        for step in range(6):
            x = torch.randn(16, 8)
            if step == 5 and dist.get_rank() == 0:
                x[0, 0] = float("nan")
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            reference["grad_norm"].append(whole(gradients(model)))
            reference["first_layer_grad_norm"].append(whole(gradients(layers[0])))
            reference["last_layer_grad_norm"].append(whole(gradients(layers[-1])))
            for layer in layers:
                clip_grad_norm_(layer.parameters(), 0.01)
            reference["grad_norm_clipped"].append(whole(gradients(model)))
            reference["weight_norm"].append(whole(list(model.parameters())))
            optimizer.step()
            sdk.log(loss=float(loss.detach()))
        sent.read()
        found = {
            "rank": dist.get_rank(),
            "reference": {name: values[:5] for name, values in reference.items()},
            "text": sent.texts("watch/first_nonfinite"),
            "scalars": {name: sent.scalar(name) for name in sent.scalars},
        }
    Path(folder, f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
