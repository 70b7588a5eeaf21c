"""GradientExplosion, LearningRateAnomaly, LossScaleCollapse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from rankscope.agent.reports.recorded import check_rule, fired_by, rows_of
from rankscope.agent.rules.gradient_explosion import GradientExplosion
from rankscope.agent.rules.learning_rate_anomaly import LearningRateAnomaly
from rankscope.agent.rules.loss_scale_collapse import LossScaleCollapse


def norms(n: int, seed: int = 4) -> NDArray[np.float64]:
    return np.exp(0.2 * np.random.default_rng(seed).standard_normal(n))


class TestGradientExplosion:
    def test_norms_that_stay_many_times_up_are_found(self) -> None:
        norm = norms(300)
        norm[200:] *= 40
        (found,) = check_rule(GradientExplosion, rows_of({"grad_norm": norm}), {"max_grad_norm": 1.0})
        assert found.step == 202
        assert "gradients are not clipped" not in [cause.cause for cause in found.causes]

    def test_one_large_norm_is_none(self) -> None:
        norm = norms(300)
        norm[[100, 200]] *= 500
        assert not check_rule(GradientExplosion, rows_of({"grad_norm": norm}))

    def test_infinite_norms_of_a_loss_scaler_are_none_and_many_in_a_row_are(self) -> None:
        norm = norms(300)
        norm[:5] = norm[90] = math.inf
        assert not check_rule(GradientExplosion, rows_of({"grad_norm": norm}))
        norm[200:] = math.inf
        assert [f.step for f in check_rule(GradientExplosion, rows_of({"grad_norm": norm}))] == [207]

    def test_norms_that_grow_as_learning_begins_are_none(self) -> None:
        norm, loss = norms(300), np.full(300, 2.3)
        norm[100:] *= np.minimum(30.0, 1.5 ** np.arange(200))
        loss[95:] = 2.3 * np.exp(-np.arange(205) / 15)
        assert not check_rule(GradientExplosion, rows_of({"grad_norm": norm, "loss": loss}))

    @pytest.mark.parametrize("seed", range(4))
    def test_norms_that_span_powers_of_ten_are_none(self, seed: int) -> None:
        wide = np.exp(1.5 * np.random.default_rng(seed).standard_normal(4000))
        assert not check_rule(GradientExplosion, rows_of({"grad_norm": wide}))

    def test_a_learning_rate_that_jumped_is_no_warm_up(self) -> None:
        norm, rate = norms(300), 1e-3 * 0.999 ** np.arange(300)
        norm[200:] *= 40
        for rates, evidence in (
            (np.where(np.arange(300) < 198, rate, 2.0), "jumped from 0.0008211 to 2"),
            (1e-3 * 1.02 ** np.arange(300), "still going up"),
        ):
            (found,) = check_rule(GradientExplosion, rows_of({"grad_norm": norm, "lr": rates}))
            (large,) = [cause for cause in found.causes if cause.cause == "the learning rate is too large"]
            assert evidence in large.evidence
            assert ("from 0.000821" in large.fix) == ("jumped" in evidence)
            assert ("lower the peak" in large.fix) == ("going up" in evidence)


class TestLearningRateAnomaly:
    @pytest.mark.parametrize("rate", [math.nan, math.inf, -1e-3])
    def test_a_rate_that_is_no_rate_is_found_at_once(self, rate: float) -> None:
        assert [f.step for f in check_rule(LearningRateAnomaly, rows_of({"lr": [1e-3] * 5 + [rate] * 5}))] == [5]

    def test_a_rate_that_stays_0_from_the_start_is_a_warning_and_after_its_end_advice(self) -> None:
        (never,) = check_rule(LearningRateAnomaly, rows_of({"lr": [0.0] * 100}))
        (ended,) = check_rule(LearningRateAnomaly, rows_of({"lr": [1e-3] * 50 + [0.0] * 100}))
        assert never.severity is None
        assert ended.severity == "info"

    def test_a_jump_above_all_before_is_found(self) -> None:
        assert [f.step for f in check_rule(LearningRateAnomaly, rows_of({"lr": [1e-3] * 50 + [1e-1] * 50}))] == [50]

    def test_schedules_are_silent(self) -> None:
        x = np.arange(400)
        for rates in (
            np.minimum(1, x / 40) * (1 + np.cos(np.pi * x / 400)) / 2,
            0.1 ** (x // 100),
            0.001 + (1 + np.cos(np.pi * (x % 100) / 100)) / 2,
            np.full(400, 3e-4),
        ):
            assert not check_rule(LearningRateAnomaly, rows_of({"lr": rates}))


class TestLossScaleCollapse:
    def test_a_scale_that_halves_on_and_on_is_found(self) -> None:
        scale = np.where(np.arange(300) < 150, 65536.0, 65536.0 * 0.5 ** ((np.arange(300) - 150) // 5))
        found = check_rule(LossScaleCollapse, rows_of({"grad_scale": scale}))
        assert found[0].step == 190
        assert "bf16" in found[0].causes[0].fix

    def test_a_scaler_that_finds_its_scale_is_silent(self) -> None:
        scale = np.maximum(64.0, 65536.0 * 0.5 ** np.arange(300))
        scale[200:] = 32.0
        assert not check_rule(LossScaleCollapse, rows_of({"grad_scale": scale}))

    def test_is_incomplete_without_a_scale(self) -> None:
        assert "LossScaleCollapse" in fired_by(LossScaleCollapse(), rows_of({"loss": [1.0]})).lacking
