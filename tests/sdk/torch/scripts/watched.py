"""Trains under DDP or FSDP2 with watch(), and prints what this rank sent and what a hand-written loop reads."""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from rankscope import sdk
from rankscope.sdk.testing import capture
from rankscope.sdk.torch import _pace


def main(kind: str) -> None:
    dist.init_process_group("gloo")
    _pace.BUDGET = 1e9
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    if kind == "ddp":
        model = DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (2,))
        for layer in list(model.children()):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    norms: list[float] = []
    with capture() as sent:
        sdk.watch(model, optimizer, every=2)
        for step in range(6):
            x = torch.randn(16, 8)
            if step == 5 and dist.get_rank() == 0:
                x[0, 0] = float("nan")
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            shards = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
            norms.append(float(torch.cat([shard.flatten() for shard in shards]).norm()))
            optimizer.step()
            sdk.log(loss=float(loss.detach()))
        sent.read()
        found = {name: sent.scalar(name) for name in ("grad_norm", "update_ratio", "dead_fraction")}
        text = sent.texts("watch/first_nonfinite")
    print("SENT " + json.dumps({"rank": dist.get_rank(), "norms": norms[:5], "text": text, **found}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
