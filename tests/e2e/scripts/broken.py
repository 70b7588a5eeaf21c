"""A small training with watch(), broken in one of the ways that happen."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from rankscope import sdk
from rankscope.sdk.torch import _pace

STEPS = 300


def network(kind: str) -> nn.Sequential:
    if kind == "vanishing":  # sigmoids on end: each passes a quarter of the gradient at most
        layers = [module for _ in range(12) for module in (nn.Linear(32, 32), nn.Sigmoid())]
        return nn.Sequential(nn.Linear(16, 32), *layers, nn.Linear(32, 2))
    first, second = nn.Linear(16, 64), nn.Linear(64, 64)
    with torch.no_grad():
        if kind == "dead":
            first.bias[:60] = -1e3
        if kind == "saturated":
            second.weight.mul_(1e4)
    return nn.Sequential(first, nn.ReLU(), second, nn.Tanh(), nn.Linear(64, 2))


def main(kind: str) -> None:
    _pace.BUDGET = 1e9  # steps of a millisecond: sampling them costs more than it should, which is not the point here
    torch.manual_seed(0)
    model = network(kind)
    if kind == "sharded":
        dist.init_process_group("gloo")
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    trained = network(kind) if kind == "frozen" else model  # the optimizer was given another model's parameters
    rate, decay = {"update": (0.5, 1.0), "vanishing": (1e-4, 0.0)}.get(kind, (1e-3, 0.0))
    betas = (0.0, 0.0) if kind == "update" else (0.9, 0.999)  # each step is of full size, in whatever direction
    optimizer = torch.optim.AdamW(trained.parameters(), lr=rate, betas=betas, weight_decay=decay)
    scaler = torch.amp.GradScaler("cpu", enabled=kind == "scale")
    sdk.init(project="broken", name=kind)
    sdk.watch(model, optimizer, every=2, histograms=False)
    for step in range(STEPS):
        x = torch.randn(64, 16)
        labels = torch.randint(0, 2, (64,)) if kind == "update" else (x.sum(1) > 0).long()
        loss: Tensor = nn.functional.cross_entropy(model(x), labels)
        if kind in ("explosion", "sharded") and step >= 200:
            loss = loss * 1e5
        if kind == "scale" and step >= 150:
            loss = loss * float("inf")
        if kind == "rate" and step == 200:
            optimizer.param_groups[0]["lr"] *= 20
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        sdk.log(train_loss=min(float(loss.detach()), 10.0) if kind == "scale" else float(loss.detach()))
    sdk.finish()
    if kind == "sharded":
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
