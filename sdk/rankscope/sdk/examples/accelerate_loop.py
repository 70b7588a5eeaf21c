# pyright: basic, reportMissingImports=false
"""A training loop with Accelerate; the tracker is all that is added.

torchrun --nproc-per-node 2 accelerate_loop.py --steps 50
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from torch import nn

from rankscope import sdk
from rankscope.sdk.integrations.accelerate import RankscopeTracker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    accelerator = Accelerator(log_with=RankscopeTracker(), cpu=not torch.cuda.is_available())
    accelerator.init_trackers("examples", config={"lr": 1e-2, "width": 64})
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    sdk.watch(model, every=10)
    for step in range(options.steps):
        x = torch.randn(32, 16, device=accelerator.device)
        loss = nn.functional.cross_entropy(model(x), (x.sum(1) > 0).long())
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        accelerator.log({"train_loss": loss.item()}, step=step)
    accelerator.end_training()


if __name__ == "__main__":
    main()
