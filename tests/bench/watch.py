"""What watching a model costs: watch() beside wandb's watch() and a hand-written loop of norms.

A small transformer on one CPU core, or on a GPU where there is one. Contestants take turns, step by step, so that all
of them meet the same noise. wandb takes part where it is installed in the environment that this runs in.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from rankscope import sdk
from rankscope.sdk import testing
from rankscope.sdk.torch import _pace

EVERY = 100


class Model(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.embed(x)))
        return out


class Contestant:
    """A training of its own; `after_backward` is what is added to each step."""

    def __init__(self, device: str, width: int, layers: int, batch: int) -> None:
        torch.manual_seed(0)
        self.model = Model(width, layers).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.x = torch.randint(0, 256, (batch, 64), device=device)
        self.device = device
        self.after_backward: Callable[[int], None] = lambda step: None
        self.after_step: Callable[[int], None] = lambda step: None
        self.steps = 0

    def step(self) -> float:
        """Make a step; return the seconds it took: of this process' CPUs, or of the clock where a GPU works."""
        clock = time.perf_counter if self.device == "cuda" else time.process_time
        self._wait()
        started = clock()
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.x).flatten(0, 1), self.x.flatten())
        loss.backward()
        self.after_backward(self.steps)
        self.optimizer.step()
        self.after_step(self.steps)
        self.steps += 1
        self._wait()
        return clock() - started

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def by_hand(contestant: Contestant, every: int) -> None:
    def norms(step: int) -> None:
        if step % every == 0:
            for name, parameter in contestant.model.named_parameters():
                if parameter.grad is not None:
                    sdk.log({f"hand/{name}": parameter.grad.norm().item()}, step=step)

    contestant.after_backward = norms


def with_wandb(contestant: Contestant, every: int) -> None:
    wandb: Any = importlib.import_module("wandb")
    run = wandb.init(mode="offline", dir=tempfile.mkdtemp(), settings=wandb.Settings(silent=True))
    run.watch(contestant.model, log="all", log_freq=every)
    contestant.after_step = lambda step: run.log({"step": step})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=EVERY, help="steps of a round; a multiple of 100 is fair")
    options = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    size = (512, 8, 16) if device == "cuda" else (128, 3, 4)
    _pace.BUDGET = 1e9  # no slowing down: the cost at the interval that was asked for
    with testing.capture():
        contestants = {name: Contestant(device, *size) for name in ("nothing", f"watch(), every {EVERY} (default)")}
        sdk.watch(contestants[f"watch(), every {EVERY} (default)"].model, every=EVERY)
        contestants["watch(), every 10"] = Contestant(device, *size)
        sdk.watch(contestants["watch(), every 10"].model, every=10)
        for every in (EVERY, 1):
            contestants[f"p.grad.norm().item() by hand, every {every}"] = Contestant(device, *size)
            by_hand(contestants[f"p.grad.norm().item() by hand, every {every}"], every)
        if importlib.util.find_spec("wandb"):
            contestants[f"wandb watch(log='all'), every {EVERY}"] = Contestant(device, *size)
            with_wandb(contestants[f"wandb watch(log='all'), every {EVERY}"], EVERY)
        for contestant in contestants.values():
            for _ in range(5):
                contestant.step()
        taken: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(options.rounds):
            spent = dict.fromkeys(contestants, 0.0)
            for _ in range(options.steps):
                for name, contestant in contestants.items():
                    spent[name] += contestant.step()
            for name, seconds in spent.items():
                taken[name].append(seconds / options.steps * 1e3)
    base = taken["nothing"]
    parameters = sum(p.numel() for p in contestants["nothing"].model.parameters())
    title = (
        f"watching a transformer of {parameters / 1e6:.1f} M parameters on {device}, median of {options.rounds} rounds"
    )
    table = Table(title=title)
    table.add_column("contestant")
    for column in ("ms a step", "added, median", "added, all rounds"):
        table.add_column(column, justify="right")
    for name, values in taken.items():
        added = [value / plain - 1 for value, plain in zip(values, base, strict=True)]
        spread = f"{min(added):+.1%} … {max(added):+.1%}" if values is not base else ""
        median = f"{statistics.median(added):+.2%}" if values is not base else ""
        table.add_row(name, f"{statistics.median(values):.2f}", median, spread)
    Console().print(table)


if __name__ == "__main__":
    main()
