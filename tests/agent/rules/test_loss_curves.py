"""LossPlateau, LossDivergence, LossOscillation: what curves of all scales fire, and what odd but healthy ones do
not.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rankscope.agent.model import Finding
from rankscope.agent.reports.recorded import check_rule, fired_by, rows_of
from rankscope.agent.rules.loss_divergence import LossDivergence
from rankscope.agent.rules.loss_oscillation import LossOscillation
from rankscope.agent.rules.loss_plateau import LossPlateau

SCALES = [(1.0, 0.0), (1e-6, 0.0), (1e6, 0.0), (1.0, -50.0)]
Curve = NDArray[np.float64]


def curve(n: int, fast: float = 300.0, noise: float = 0.03, seed: int = 5) -> Curve:
    """A loss that falls from 2.3 towards 0.3, and goes on falling."""
    x = np.arange(n)
    return 0.3 + 2.0 / (1 + x / fast) + noise * np.random.default_rng(seed).standard_normal(n)


def flat(n: int, level: float = 2.303, noise: float = 0.03, seed: int = 5) -> Curve:
    return level + noise * np.random.default_rng(seed).standard_normal(n)


def causes(finding: Finding) -> list[str]:
    return [cause.cause for cause in finding.causes]


class TestLossPlateau:
    @pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
    def test_a_loss_that_never_falls_is_found(self, scale: float) -> None:
        (found,) = check_rule(LossPlateau, rows_of({"loss": scale * flat(1200)}))
        assert "never fell" in found.summary
        assert found.step is not None
        assert found.step < 800

    def test_a_loss_that_stops_falling_early_is_found(self) -> None:
        (found,) = check_rule(LossPlateau, rows_of({"loss": np.concatenate([curve(100), flat(1100, level=1.5)])}))
        assert "then no more" in found.summary

    @pytest.mark.parametrize("seed", range(6))
    def test_a_loss_that_falls_slowly_under_noise_is_none(self, seed: int) -> None:
        assert not check_rule(LossPlateau, rows_of({"loss": curve(4000, noise=0.3, seed=seed)}))

    def test_a_run_is_given_time(self) -> None:
        assert not check_rule(LossPlateau, rows_of({"loss": flat(290)}))

    def test_a_learning_rate_in_its_warm_up_is_waited_for(self) -> None:
        rates = np.linspace(1e-6, 1e-3, 1000)
        assert not check_rule(LossPlateau, rows_of({"loss": flat(1000), "lr": rates}))

    def test_outliers_do_not_hide_that_it_learns(self) -> None:
        loss = curve(2000)
        loss[::97] += 5
        assert not check_rule(LossPlateau, rows_of({"loss": loss}))

    def test_small_updates_point_to_the_learning_rate_and_large_ones_do_not(self) -> None:
        for ratio, cause, other in (
            (1e-8, "the learning rate is too small", "the learning rate is too large"),
            (5e-2, "the learning rate is too large", "the learning rate is too small"),
        ):
            metrics = {"loss": flat(800, noise=0.3), "lr": np.full(800, 1e-3), "update_ratio": np.full(800, ratio)}
            found = check_rule(LossPlateau, rows_of(metrics))[0]
            assert cause in causes(found)
            assert other not in causes(found)

    def test_a_schedule_that_ended_is_the_reason_not_that_all_is_learned(self) -> None:
        rates = np.where(np.arange(1000) < 200, 3e-3, 0.0)
        loss = np.concatenate([np.linspace(5, 2.5, 200), 2.5 + 0.05 * np.random.default_rng(2).standard_normal(800)])
        found = check_rule(LossPlateau, rows_of({"loss": loss, "lr": rates}))[0]
        assert causes(found)[0] == "the learning rate is 0"
        assert "this model has learned what it can from this data" not in causes(found)

    def test_frozen_parameters_come_first(self) -> None:
        metrics = {"loss": flat(800), "unchanged_frac": np.ones(800), "update_ratio": np.zeros(800)}
        found = check_rule(LossPlateau, rows_of(metrics), {"lora_r": 16})[0]
        assert causes(found)[0] == "parameters are frozen"
        assert "adapters" in found.causes[0].fix

    def test_is_incomplete_before_a_hundred_losses(self) -> None:
        assert "LossPlateau" in fired_by(LossPlateau(), rows_of({"loss": flat(50)})).lacking


class TestLossDivergence:
    @pytest.mark.parametrize(("scale", "shift"), SCALES)
    def test_a_loss_above_its_start_is_found(self, scale: float, shift: float) -> None:
        loss = np.concatenate([curve(200), np.linspace(0.9, 40, 200)])
        found = check_rule(LossDivergence, rows_of({"loss": scale * loss + shift}))
        assert found[0].step is not None
        assert 200 < found[0].step < (300 if not shift else 400)

    def test_a_blow_up_in_the_first_steps_is_found(self) -> None:
        loss = np.concatenate([[2.3, 17, 2e3, 1e6, 3e8, 1e18], flat(100, level=14)])
        assert check_rule(LossDivergence, rows_of({"loss": loss}))

    def test_what_was_learned_and_is_lost_for_long_is_found(self) -> None:
        loss = np.concatenate([curve(600), flat(200, level=2.2)])
        (found,) = check_rule(LossDivergence, rows_of({"loss": loss}))
        assert found.step is not None
        assert 650 <= found.step <= 665

    @pytest.mark.parametrize("seed", range(6))
    def test_noise_is_none(self, seed: int) -> None:
        assert not check_rule(LossDivergence, rows_of({"loss": curve(2000, noise=0.25, seed=seed)}))

    def test_a_spike_that_passes_is_none(self) -> None:
        loss = curve(600)
        loss[400:404] = 9.0
        assert not check_rule(LossDivergence, rows_of({"loss": loss}))

    def test_a_warm_restart_of_the_schedule_is_none(self) -> None:
        loss = curve(900)
        loss[500:600] += np.linspace(0.5, 0, 100)
        assert not check_rule(LossDivergence, rows_of({"loss": loss}))


class TestLossOscillation:
    def test_up_and_down_in_turn_is_found(self) -> None:
        loss = curve(800)
        loss[300:] += 0.6 * (-1.0) ** np.arange(500)
        found = check_rule(LossOscillation, rows_of({"loss": loss, "lr": np.full(800, 0.1)}))
        assert "in turn" in found[0].summary
        assert causes(found[0])[0] == "the learning rate is too large"

    def test_swings_that_grow_far_beyond_what_they_were_are_found(self) -> None:
        x = np.arange(1500)
        loss = curve(1500, fast=30, noise=0.005) + np.where(x > 700, 0.5 * np.sin(x / 4), 0)
        (found,) = check_rule(LossOscillation, rows_of({"loss": loss}))
        assert "wider" in found.summary

    @pytest.mark.parametrize("seed", range(4))
    def test_noise_is_none_however_wide(self, seed: int) -> None:
        assert not check_rule(LossOscillation, rows_of({"loss": curve(2000, noise=0.6, seed=seed)}))

    def test_noise_that_begins_when_the_loss_begins_to_fall_is_none(self) -> None:
        loss = np.concatenate([flat(400, noise=0.002), curve(800, noise=0.15)])
        assert not check_rule(LossOscillation, rows_of({"loss": loss}))

    def test_a_new_level_is_none(self) -> None:
        loss = curve(1200, fast=30, noise=0.01)
        loss[600:] += 0.8
        assert not check_rule(LossOscillation, rows_of({"loss": loss}))
