"""watch() on models with low-rank adapters, as the peft library makes them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from rankscope import sdk
from rankscope.sdk import testing

Adapted = Callable[[nn.Module], Any]


pytestmark = pytest.mark.usefixtures("sent")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


@pytest.fixture
def adapted(require_library: Callable[[str], None]) -> Adapted:
    require_library("peft")
    peft: Any = importlib.import_module("peft")
    return lambda model: peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0", "2"]))


def train(model: Any, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        sdk.log(loss=1.0)


def test_the_adapters_are_watched_and_the_model_below_counts_as_frozen(
    sent: testing.Captured, adapted: Adapted
) -> None:
    model = adapted(network())
    sizes = {
        wanted: sum(p.numel() for p in model.parameters() if p.requires_grad is wanted) for wanted in (True, False)
    }
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    sdk.watch(model, optimizer, every=1)
    train(model, optimizer)
    layers = {name for name in sent.scalars if name.startswith("grad_norm/")} if sent.scalar("grad_norm") else set()
    assert len(layers) == 4
    assert all(".lora_" in name for name in layers)
    assert sent.scalar("frozen_fraction")[-1][1] == pytest.approx(sizes[False] / sum(sizes.values()))
    assert sent.scalar("unchanged_fraction")[-1][1] == 0.0
    assert sent.scalar("grad_norm")[-1][1] > sent.scalar("grad_norm_clipped")[-1][1] > 0
    assert sent.scalar("dead_fraction")


def test_adapters_that_never_move_are_seen(sent: testing.Captured, adapted: Adapted) -> None:
    """The optimizer was made before the adapters: all that it holds is frozen since."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with_adapters = adapted(model)
    sdk.watch(with_adapters, optimizer, every=1)
    train(with_adapters, optimizer)
    assert [value for _, value in sent.scalar("unchanged_fraction")] == [1.0, 1.0, 1.0]
