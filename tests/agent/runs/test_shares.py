"""Each rank of a sharded model tells its share of a norm; once all have told a step's, every rank has the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rankscope.agent.model import Batch, Block, Column, Finding, RankInfo, RankKey
from rankscope.agent.rules.gradient_explosion import GradientExplosion
from rankscope.agent.runs import metrics
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.shares import MOST, Shares
from rankscope.agent.runs.state import Node

NOW = 1_790_000_000.0


def ranks(node: Node, world: int = 2, here: int = 2, attempt: int = 0) -> list[Rank]:
    return [
        node.attach(
            RankInfo(
                RankKey("default", "exp", rank),
                1 + attempt,
                "exp",
                attempt=attempt,
                world_size=world,
                local_world_size=here,
            ),
            NOW,
        )
        for rank in range(here)
    ]


def log(rank: Rank, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
    table = np.array(values, float)[:, None]
    block = Block((Column(name),), np.array(steps), NOW + np.array(steps, float), table)
    rank.apply(Batch(1, len(steps), (block,)), NOW)


def whole(rank: Rank, role: str = "grad_norm") -> list[tuple[int, float]]:
    series = rank.role(role)
    return [] if series is None else list(zip(series.step.tolist(), series.value.tolist(), strict=True))


@pytest.fixture
def node() -> Node:
    return Node("host-a")


@pytest.mark.parametrize("role", ["grad_norm", "first_layer_grad_norm", "last_layer_grad_norm"])
def test_the_whole_is_there_on_every_rank_once_all_have_told_their_share(node: Node, role: str) -> None:
    first, second = ranks(node)
    log(first, f"{role}_share", [1, 2], [3.0, 6.0])
    assert whole(first, role) == []
    log(second, f"{role}_share", [1], [4.0])
    assert whole(first, role) == whole(second, role) == [(1, 5.0)]
    log(second, f"{role}_share", [2], [8.0])
    assert whole(first, role) == whole(second, role) == [(1, 5.0), (2, 10.0)]


def test_the_whole_and_the_shares_are_exported(node: Node) -> None:
    for rank, value in zip(ranks(node), (3.0, 4.0), strict=True):
        log(rank, "grad_norm_share", [1], [value])
    found = {(s.metric.name, s.labels[-1]): s.value for s in metrics.samples(node, NOW)}
    assert [found["train_grad_norm", rank] for rank in "01"] == [5.0, 5.0]
    assert [found["train_grad_norm_share", rank] for rank in "01"] == [3.0, 4.0]
    assert not any(name == "train_value" for name, _ in found)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_one_share_that_is_not_finite_makes_the_whole_so(node: Node, odd: float) -> None:
    first, second = ranks(node)
    log(first, "grad_norm_share", [1], [1.0])
    log(second, "grad_norm_share", [1], [odd])
    np.testing.assert_equal(whole(first), [(1, odd)])
    assert [rank.nonfinite["grad_norm"] for rank in (first, second)] == [1, 1]


def test_a_world_on_several_nodes_has_shares_only(node: Node) -> None:
    for rank in ranks(node, world=4, here=2):
        log(rank, "grad_norm_share", [1], [1.0])
        assert whole(rank) == []


def test_what_the_user_logs_is_not_mixed_with_what_is_added_up(node: Node) -> None:
    first, second = ranks(node)
    log(first, "train/grad_norm", [1], [7.0])
    log(first, "grad_norm_share", [1], [3.0])
    log(second, "grad_norm_share", [1], [4.0])
    log(second, "grad_norm", [2], [9.0])
    assert whole(first) == [(1, 7.0)]
    assert whole(second) == [(1, 5.0)]


def test_shares_of_different_attempts_are_not_added_up(node: Node) -> None:
    first, _ = ranks(node)
    log(first, "grad_norm_share", [5], [3.0])
    first, second = ranks(node, attempt=1)
    log(second, "grad_norm_share", [5], [4.0])
    assert whole(first) == []
    log(first, "grad_norm_share", [5], [12.0])
    assert dict(whole(first)) == pytest.approx({5: math.hypot(4, 12)})


def test_a_rank_that_falls_behind_costs_bounded_memory() -> None:
    shares = Shares()
    info = [RankInfo(RankKey("p", "r", i), 1, "r", world_size=2, local_world_size=2) for i in range(2)]
    for step in range(2 * MOST):
        assert shares.add(info[0], "grad_norm_share", step, 1.0) is None
    found = [shares.add(info[1], "grad_norm_share", step, 1.0) for step in range(2 * MOST)]
    assert sum(value is not None for value in found) <= MOST
    assert found[-1] == pytest.approx(math.sqrt(2))


def test_the_rules_judge_the_whole(node: Node) -> None:
    """Two shares that take turns explode nowhere together; a growth of both does."""
    first, second = ranks(node)
    rule = GradientExplosion()
    run = next(iter(node.runs.values()))
    steps = list(range(200))
    turn = [10.0 if step % 2 else 0.1 for step in steps]
    log(first, "grad_norm_share", steps, turn)
    log(second, "grad_norm_share", steps, [*turn[1:], 0.1])
    assert rule.check(node, run, NOW) == ()
    later = list(range(200, 220))
    for rank in (first, second):
        log(rank, "grad_norm_share", later, [1000.0] * 20)
    found = rule.check(node, run, NOW + 300)
    assert isinstance(found, tuple)
    assert {finding.rank for finding in found if isinstance(finding, Finding)} == {0, 1}
