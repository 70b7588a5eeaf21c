"""Overfitting: a validation loss that rises for good while the training loss does not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rankscope.agent.model import Finding
from rankscope.agent.reports.recorded import check_rule, fired_by, rows_of
from rankscope.agent.rules.overfitting import Overfitting, rising


def run(train: NDArray[np.float64], val: NDArray[np.float64], every: int = 50) -> list[Finding]:
    """Evaluations `every` 50 steps."""
    logged: list[float | None] = [float(val[i // every]) if i % every == 0 else None for i in range(len(train))]
    return check_rule(Overfitting, rows_of({"loss": train, "val_loss": logged}))


def learning(n: int, seed: int = 2) -> NDArray[np.float64]:
    return 2 * np.exp(-np.arange(n) / 300) + 0.02 * np.random.default_rng(seed).random(n)


def test_fires_and_names_the_best_step() -> None:
    val = np.concatenate([np.linspace(2, 0.8, 8), np.linspace(0.85, 1.6, 22)])
    (found,) = run(learning(1500), val)
    assert "0.8 at step 350" in found.summary
    assert "step 350" in found.causes[0].fix


@pytest.mark.parametrize("seed", range(8))
def test_a_noisy_validation_loss_that_stays_is_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    val = 0.8 + np.exp(-np.arange(60) / 4) + 0.08 * rng.standard_normal(60)
    assert not run(learning(3000), val)


def test_a_gap_is_none() -> None:
    assert not run(learning(1500), np.linspace(3.0, 2.2, 30))


def test_one_bad_evaluation_is_none() -> None:
    val = np.linspace(2, 0.8, 30)
    val[20] = 5.0
    assert not run(learning(1500), val)


def test_a_training_loss_that_rises_too_is_a_divergence() -> None:
    train = np.concatenate([learning(700), np.linspace(0.3, 3, 800)])
    val = np.concatenate([np.linspace(2, 0.8, 14), np.linspace(0.9, 4, 16)])
    assert not run(train, val)


def test_a_run_that_learned_nothing_cannot_overfit() -> None:
    assert not run(np.full(1500, 2.3), np.linspace(2.3, 3.4, 30))


def test_a_training_loss_that_stands_still_asks_for_a_larger_rise() -> None:
    train = np.concatenate([learning(300), np.full(1200, 0.78)])
    small = np.concatenate([np.linspace(2, 0.8, 7), np.linspace(0.81, 0.95, 23)])
    large = np.concatenate([np.linspace(2, 0.8, 7), np.linspace(0.81, 2.5, 23)])
    assert not run(train, small)
    assert run(train, large)


def test_is_incomplete_without_evaluations() -> None:
    assert fired_by(Overfitting(), rows_of({"loss": [1.0] * 9})).lacking == {"Overfitting": "no val loss was logged"}


def test_the_trend_statistic_matches_known_values() -> None:
    assert rising(np.arange(10.0)) == pytest.approx(3.935, abs=0.01)  # S = 45, variance 125
    assert rising(np.array([1.0, 2.0, 1.0, 2.0])) < 1.5
