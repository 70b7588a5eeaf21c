"""LossSpike: jumps far above the level, whatever the scale; noise, schedules and converged runs are silent."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rankscope.agent.reports.recorded import check_rule, fired_by, rows_of
from rankscope.agent.rules.loss_spike import LossSpike


def learning(n: int, noise: float = 0.05, seed: int = 3) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return 0.3 + 2.0 * np.exp(-np.arange(n) / 80) + noise * rng.standard_normal(n)


def steps(loss: NDArray[np.float64], **shape: int) -> list[int | None]:
    return [f.step for f in check_rule(LossSpike, rows_of({"loss": loss}, **shape))]  # type: ignore[arg-type]


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-6, 0.0), (1e6, 0.0), (1.0, -50.0)])
def test_fires_at_the_jump_whatever_the_scale_of_the_loss(scale: float, shift: float) -> None:
    loss = learning(600)
    loss[400:403] += 4.0
    assert steps(loss * scale + shift) == [400]


def test_one_bad_batch_is_enough() -> None:
    loss = learning(600)
    loss[300] = 6.0
    assert steps(loss) == [300]


def test_several_points_fire_where_each_alone_would_not() -> None:
    loss = learning(600)
    loss[400:420] += 0.42  # 8 deviations
    (step,) = steps(loss)
    assert step is not None
    assert 402 <= step <= 406


def test_the_jump_itself_is_no_rise_before_it() -> None:
    """Told at its fourth point, it says nothing of a loss that was rising before."""
    loss = learning(600)
    loss[400:420] += 0.42
    (found,) = check_rule(LossSpike, rows_of({"loss": loss, "lr": np.full(600, 1e-3)}))
    assert "the learning rate is too large" in [cause.cause for cause in found.causes]
    assert not [cause for cause in found.causes if "rising before" in cause.evidence]


@pytest.mark.parametrize("seed", range(5))
def test_long_tails_are_no_spikes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heavy = np.exp(0.4 * rng.standard_normal(5000)) * (0.5 + 2 * np.exp(-np.arange(5000) / 500))
    assert steps(heavy) == []


def test_a_run_that_has_converged_may_jitter() -> None:
    rng = np.random.default_rng(1)
    loss = 2.3 * np.exp(-np.arange(1500) / 60) + 1e-4 * rng.random(1500)
    loss[[900, 1200]] = 0.01  # a hundred times its level, and 0.5 % of what was learned
    assert steps(loss) == []


def test_a_falling_learning_rate_that_lets_the_loss_drop_is_silent() -> None:
    loss = learning(900)
    loss[600:] -= 0.15
    assert steps(loss) == []


def test_a_new_level_is_one_spike_and_then_the_level() -> None:
    loss = learning(1500)
    loss[700:] += 2.0
    loss[1300] += 3.0
    assert steps(loss) == [700, 1300]


def test_steps_that_are_trained_again_are_held_against_what_came_before_them() -> None:
    loss = learning(400)
    again = np.concatenate([loss, loss[100:]])
    order = [*range(400), *range(100, 400)]
    assert not check_rule(LossSpike, rows_of({"loss": again}, steps=order))


def test_losses_logged_every_100_steps_work_alike() -> None:
    loss = learning(400)
    loss[300:306] += 3.0
    assert steps(loss, every=100) == [30000]


def test_is_incomplete_until_twenty_losses_have_come() -> None:
    replay = fired_by(LossSpike(), rows_of({"loss": [1.0] * 19}), 1)
    assert replay.lacking == {"LossSpike": "fewer than 20 losses were logged"}


def test_says_what_was_normal_before_and_that_it_passed() -> None:
    loss = learning(600)
    loss[400] = 9.0
    norm = np.full(600, 1.2)
    norm[400] = 80.0
    (found,) = check_rule(LossSpike, rows_of({"loss": loss, "grad_norm": norm}))
    (batch,) = [cause for cause in found.causes if cause.cause == "a bad batch"]
    assert "out of the blue" in batch.evidence
    assert found.value == 9.0
