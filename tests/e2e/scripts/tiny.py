"""A training of a second or two on two ranks that also writes down itself what it logs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rankscope import sdk


def main() -> None:
    out, steps, nan_from, nan_to, pause = Path(sys.argv[1]), *(float(a) for a in sys.argv[2:6])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)
    torch.set_num_threads(1)
    sdk.init(project="e2e", name="tiny", config={"lr": 0.1, "steps": steps, "note": "a|b"})
    model = DistributedDataParallel(nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (out / f"logged_{rank}.jsonl").open("w") as told:
        for step in range(int(steps)):
            x = torch.randn(32, 8)
            with sdk.phase("forward"):
                loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
            with sdk.phase("backward"):
                optimizer.zero_grad()
                loss.backward()
            with sdk.phase("optimizer"):
                optimizer.step()
            value = float("nan") if nan_from <= step < nan_to else loss.item()
            sdk.log(loss=value, lr=0.1, step=step)
            told.write(json.dumps({"step": step, "loss": value, "time": time.time()}) + "\n")
            told.flush()
            time.sleep(pause)
    sdk.finish()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
