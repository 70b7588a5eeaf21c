"""Trains the catalogue: python -m tests.bench.curves FOLDER [SEED…]."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from .catalogue import faulty, healthy
from .train import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for seed in map(int, sys.argv[2:] or ["1"]):
        for plan in (*healthy(seed), *faulty(seed)):
            if (folder / f"{plan.name}.jsonl").exists():
                continue
            print(train(plan, seed, folder).name, flush=True)
