"""A model's graph: traced by torch, once, without computing or changing anything."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from rankscope import sdk
from rankscope.sdk import _guard, testing


@pytest.fixture
def sent() -> Iterator[testing.Captured]:
    with testing.capture() as captured:
        yield captured


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(self.norm(x)) * self.scale + x
        return out


def nodes(sent: testing.Captured) -> dict[str, tuple[str, list[str], list[int] | None]]:
    sent.read()
    data = b"".join(event.data for event in sent.events if event.fields.get("kind") == "graph")
    return {name: (operation, inputs, shape) for name, operation, inputs, shape in json.loads(data)}


def test_nodes_are_named_by_their_modules_and_joined_by_their_data(sent: testing.Captured) -> None:
    sdk.graph("model", nn.Sequential(nn.Linear(4, 8), Block()), torch.randn(3, 4))
    found = nodes(sent)
    assert found["0/weight"] == ("parameter", [], [8, 4])
    assert found["1/scale"][0] == "parameter"
    linear = next(name for name, (operation, _, _) in found.items() if operation.startswith("linear"))
    assert linear.startswith("0/")
    assert found[linear][2] == [3, 8]
    assert {"0/weight", "0/bias"} <= set(found[linear][1])
    for _, inputs, _ in found.values():
        assert set(inputs) <= set(found)


def test_tracing_leaves_no_trace_in_the_model_or_the_random_numbers(sent: testing.Captured) -> None:
    model = nn.Sequential(nn.Linear(4, 8), Block())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    sdk.graph("model", model, x)
    assert nodes(sent)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_without_inputs_those_of_the_next_call_are_taken_once(sent: testing.Captured) -> None:
    model = nn.Linear(4, 8)
    sdk.graph("model", model)
    sent.read()
    assert not [event for event in sent.events if event.kind == "media"]
    for _ in range(3):
        model(torch.randn(2, 4))
    assert nodes(sent)["weight"][2] == [8, 4]


def test_inputs_by_name(sent: testing.Captured) -> None:
    sdk.graph("model", nn.Linear(4, 8), {"input": torch.randn(2, 4)})
    assert nodes(sent)


def test_a_model_that_cannot_be_traced_costs_one_warning(sent: testing.Captured) -> None:
    class Choosing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    model = Choosing()
    sdk.graph("model", model, torch.randn(2, 4))
    sdk.graph("model", model)
    assert model(torch.ones(2)).tolist() == [2, 2]
    sent.read()
    assert not [event for event in sent.events if event.kind == "media"]
    assert _guard.failures["graph"] == 2
