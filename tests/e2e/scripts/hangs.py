"""A job that hangs at step 10: rank 1 waits for data that does not come, the others wait for it in a collective."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from rankscope import sdk

STEPS = 10


def load(step: int) -> torch.Tensor:
    if step == STEPS and dist.get_rank() == 1:
        os.read(os.pipe()[0], 1)
    return torch.ones(4)


def main() -> None:
    dist.init_process_group("gloo")
    sdk.init(project="e2e", name="hangs")
    for step in range(STEPS + 1):
        with sdk.phase("data"):
            batch = load(step)
        with sdk.phase("backward"):
            dist.all_reduce(batch)
        sdk.log(loss=1.0 / (1 + step), step=step)


if __name__ == "__main__":
    main()
