"""LossNaN: any loss that is not finite, at once, and also one that hides behind a zero."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankscope.agent.model import Finding, Incomplete, Verdict
from rankscope.agent.reports.recorded import check_rule, fired_by, rows_of
from rankscope.agent.reports.rows import Row
from rankscope.agent.rules.loss_nan import LossNaN
from rankscope.agent.runs.state import Node, Run


def falling(n: int) -> list[float | None]:
    return [2.0 / (1 + 0.05 * i) for i in range(n)]


def causes(finding: Finding) -> list[str]:
    return [cause.cause for cause in finding.causes]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_fires_at_the_first_loss_that_is_not_finite(value: float) -> None:
    loss = falling(50)
    loss[30:] = [value] * 20
    found = check_rule(LossNaN, rows_of({"loss": loss}))
    assert [f.step for f in found] == [30]
    assert found[0].rank == 0


def test_fires_at_the_very_first_loss() -> None:
    assert [f.step for f in check_rule(LossNaN, rows_of({"train/loss": [math.nan]}))] == [0]


def test_is_silent_on_finite_losses_of_any_size_and_sign() -> None:
    for loss in ([1e-30, 2e-30], [1e30, -1e30], [0.0, 0.0, 0.0], [-3.0, -4.0]):
        assert not check_rule(LossNaN, rows_of({"loss": loss}))


def test_a_second_nan_after_recovery_fires_again() -> None:
    loss = falling(50)
    loss[10] = loss[30] = math.nan
    assert [f.step for f in check_rule(LossNaN, rows_of({"loss": loss}))] == [10, 30]


def test_zero_with_a_gradient_that_is_not_finite_is_a_hidden_nan() -> None:
    loss, norm = falling(40), [1.0] * 40
    loss[20:], norm[20:] = [0.0] * 20, [math.nan] * 20
    found = check_rule(LossNaN, rows_of({"loss": loss, "grad_norm": norm}))
    assert [f.step for f in found] == [20]
    assert "hidden" in found[0].summary


def test_zero_alone_and_a_bad_gradient_alone_are_none() -> None:
    loss, norm = falling(40), [1.0] * 40
    loss[20] = 0.0
    norm[5] = norm[6] = math.inf  # as a loss scaler does while it looks for its scale
    assert not check_rule(LossNaN, rows_of({"loss": loss, "grad_norm": norm}))


def test_resolves_with_the_first_finite_loss_unless_told_to_wait() -> None:
    rows = rows_of({"loss": [1.0, math.nan, 1.0, 1.0, 1.0, math.nan]})
    assert [f.finding.step for f in fired_by(LossNaN(), rows, 1).told] == [1, 5]
    assert [f.finding.step for f in fired_by(LossNaN(recover=5), rows, 1).told] == [1]


def test_is_incomplete_without_a_loss() -> None:
    assert fired_by(LossNaN(), rows_of({"lr": [1.0]})).lacking == {"LossNaN": "no loss was logged"}


def test_names_the_explosion_that_came_before() -> None:
    norm = [1.0 + 0.01 * (i % 7) for i in range(60)]
    norm[55:] = [3.0, 9.0, 40.0, 300.0, math.nan]
    loss = falling(60)
    loss[59] = math.nan
    (found,) = check_rule(LossNaN, rows_of({"loss": loss, "grad_norm": norm, "lr": [0.1] * 60}))
    assert causes(found)[0] == "the gradient explodes"
    assert "300" in found.causes[0].evidence
    assert "a logarithm of zero or a division by zero" not in causes(found)


def test_out_of_the_blue_it_suspects_a_division() -> None:
    loss = falling(60)
    loss[40:] = [math.nan] * 20
    (found,) = check_rule(LossNaN, rows_of({"loss": loss, "grad_norm": [1.0] * 40 + [math.nan] * 20}))
    assert causes(found)[0] == "a logarithm of zero or a division by zero"
    assert "the gradient explodes" not in causes(found)


def test_what_is_not_logged_is_no_evidence() -> None:
    """Nobody takes "the learning rate is not logged" for a reason why it is too large: it says what to log."""
    (found,) = check_rule(LossNaN, rows_of({"loss": [*falling(30), math.nan]}))
    (large,) = [cause for cause in found.causes if cause.cause == "the learning rate is too large"]
    assert large is found.causes[-1]
    assert large.evidence == "nothing logged speaks against it; log lr to tell"
    climbing = [2.0, 1.98, 2.02, 2.01, 1.99, 2.0] * 5 + [2.2, 2.5, 3.0, 4.0, 6.0, math.nan]
    (found,) = check_rule(LossNaN, rows_of({"loss": climbing}))
    (large,) = [cause for cause in found.causes if cause.cause == "the learning rate is too large"]
    assert large.evidence.startswith("the loss was rising before, from 2")
    assert large.evidence.endswith("; log lr to tell")


@pytest.mark.parametrize(("config", "listed"), [({"fp16": True}, True), ({"dtype": "bfloat16"}, False), ({}, False)])
def test_an_overflow_is_suspected_only_in_half_precision(config: dict[str, object], listed: bool) -> None:
    (found,) = check_rule(LossNaN, rows_of({"loss": [*falling(30), math.nan]}), config)
    assert ("overflow in half precision" in causes(found)) == listed


def test_one_rank_of_several_has_a_bad_batch() -> None:
    rows = []
    values = np.linspace(2, 1, 20)
    for step in range(20):
        for rank in range(4):
            loss = math.nan if (step, rank) == (15, 2) else float(values[step])
            rows.append((rank, step, 1e9 + step, {"loss": loss, "lr": 1e-4 * (step + 1)}, False))
    (found,) = [f.finding for f in fired_by(LossNaN(), rows).told]
    assert (found.rank, found.step) == (2, 15)
    assert found.causes[0].cause == "a bad batch"
    assert "only rank 2" in found.causes[0].evidence
    assert "the learning rate is too large" not in causes(found), "the other ranks take the same steps"


def test_a_rank_whose_loss_comes_later_is_compared_all_the_same() -> None:
    seen: list[tuple[Finding, ...]] = []

    class Watched(LossNaN):
        def check(self, node: Node, run: Run | None, now: float) -> Verdict:
            verdict = super().check(node, run, now)
            assert not isinstance(verdict, Incomplete)
            seen.append(verdict)
            return verdict

    def row(rank: int, step: int, loss: float) -> Row:
        return (rank, step, 1e9 + 0.1 * step, {"loss": loss}, False)

    rows = [row(rank, step, 2.0 - step) for step in range(2) for rank in (0, 1)]
    rows += [row(1, 2, math.nan), row(1, 3, 1.0), row(0, 2, 1.0), row(0, 3, 1.0)]  # over before rank 0 was heard
    fired_by(Watched(), rows, 1)
    told = [found for verdict in seen for found in verdict]
    assert {(found.rank, found.step) for found in told} == {(1, 2)}
    assert "a bad batch" not in causes(told[0])  # nobody knows yet
    assert (told[0].tentative, told[-1].tentative) == (True, False)
    assert told[-1].causes[0].cause == "a bad batch"
    assert "1 other rank had a finite loss" in told[-1].causes[0].evidence
