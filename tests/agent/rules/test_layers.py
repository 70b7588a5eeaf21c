"""Rules on what `watch()` sees inside the network: dead, saturated, frozen layers, updates, gradients that vanish."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rankscope.agent.model import Finding
from rankscope.agent.reports.recorded import check_rule, fired_by, rows_of
from rankscope.agent.rules.dead_activations import DeadActivations
from rankscope.agent.rules.frozen_parameters import FrozenParameters
from rankscope.agent.rules.gradient_vanishing import GradientVanishing
from rankscope.agent.rules.saturated_activations import SaturatedActivations
from rankscope.agent.rules.update_ratio_out_of_range import UpdateRatioOutOfRange

N = 300


def watched(values: list[float] | np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[float | None]:
    """A value every 10 steps, as `watch()` gives it."""
    return [float(values[i]) if i % 10 == 0 else None for i in range(N)]


def full(value: float) -> list[float | None]:
    return watched(np.full(N, value))


@pytest.mark.parametrize(("rule", "name"), [(DeadActivations, "dead_frac"), (SaturatedActivations, "saturated_frac")])
def test_most_units_out_of_work_is_found_and_few_or_once_is_not(
    rule: type[DeadActivations | SaturatedActivations], name: str
) -> None:
    once = full(0.1)
    once[100] = 0.95
    assert [f.step for f in check_rule(rule, rows_of({name: full(0.95)}))] == [40]
    assert not check_rule(rule, rows_of({name: full(0.4)}))
    assert not check_rule(rule, rows_of({name: once}))
    assert rule.__name__ in fired_by(rule(), rows_of({"loss": [1.0] * 50})).lacking


def test_units_dead_from_the_start_point_to_the_initialisation() -> None:
    (found,) = check_rule(DeadActivations, rows_of({"dead_frac": full(0.95)}))
    assert "the network was initialised dead" in [cause.cause for cause in found.causes]
    later = np.where(np.arange(N) < 100, 0.1, 0.95)
    (found,) = check_rule(DeadActivations, rows_of({"dead_frac": watched(later)}))
    assert "the network was initialised dead" not in [cause.cause for cause in found.causes]


class TestFrozenParameters:
    def test_parameters_that_stop_changing_are_found(self) -> None:
        unchanged = np.where(np.arange(N) < 100, 0.0, 1.0)
        (found,) = check_rule(FrozenParameters, rows_of({"unchanged_frac": watched(unchanged), "lr": [1e-3] * N}))
        assert found.step == 120
        assert "requires_grad" in found.causes[0].fix

    def test_updates_of_nothing_are_found_where_only_they_are_known(self) -> None:
        assert check_rule(FrozenParameters, rows_of({"update_ratio": full(0.0)}))

    def test_a_step_that_a_loss_scaler_skips_is_none(self) -> None:
        unchanged = full(0.0)
        unchanged[0] = unchanged[50] = 1.0
        assert not check_rule(FrozenParameters, rows_of({"unchanged_frac": unchanged}))

    def test_the_end_of_a_schedule_is_none(self) -> None:
        rates = np.linspace(1e-3, 0, N)
        unchanged = np.where(rates < 9e-6, 1.0, 0.0)
        assert not check_rule(FrozenParameters, rows_of({"unchanged_frac": watched(unchanged), "lr": rates}))

    def test_adapters_that_learn_are_none(self) -> None:
        loss = np.linspace(3, 1, N)
        assert not check_rule(FrozenParameters, rows_of({"unchanged_frac": full(0.98), "loss": loss}))


class TestUpdateRatioOutOfRange:
    def test_updates_as_large_as_weights_are_found(self) -> None:
        (found,) = check_rule(UpdateRatioOutOfRange, rows_of({"update_ratio": full(0.8), "lr": [0.1] * N}))
        assert found.causes[0].cause == "the learning rate is too large"

    def test_updates_of_nothing_are_found_unless_the_schedule_ends(self) -> None:
        rates = np.linspace(1e-3, 0, N)
        fading = 1e-3 * (rates / 1e-3) ** 4
        assert check_rule(UpdateRatioOutOfRange, rows_of({"update_ratio": full(1e-9), "lr": [1e-9] * N}))
        assert not check_rule(UpdateRatioOutOfRange, rows_of({"update_ratio": watched(fading), "lr": rates}))
        assert not check_rule(UpdateRatioOutOfRange, rows_of({"update_ratio": watched(fading)}))

    def test_usual_updates_are_silent(self) -> None:
        assert not check_rule(UpdateRatioOutOfRange, rows_of({"update_ratio": full(2e-3)}))


class TestGradientVanishing:
    def found(self, first: float, last: float, loss: float = 2.3) -> list[Finding]:
        losses: Sequence[float | None] = [*[2.3] * 20, *[loss] * (N - 20)]
        metrics = {"grad_norm_first": full(first), "grad_norm_last": full(last), "loss": losses}
        return check_rule(GradientVanishing, rows_of(metrics))

    def test_a_gradient_lost_on_its_way_is_found(self) -> None:
        assert [f.step for f in self.found(1e-9, 0.3)] == [50]

    def test_a_first_layer_that_merely_learns_less_is_none(self) -> None:
        assert not self.found(2e-3, 0.3)

    def test_small_gradients_in_all_layers_are_none_of_this(self) -> None:
        assert not self.found(1e-5, 1e-4)

    def test_a_model_that_has_learned_its_data_has_no_gradient_left(self) -> None:
        assert not self.found(1e-9, 0.3, loss=0.01)

    def test_without_layers_the_whole_norm_counts(self) -> None:
        assert check_rule(GradientVanishing, rows_of({"grad_norm": [1e-9] * N, "loss": [2.3] * N}))
        assert not check_rule(GradientVanishing, rows_of({"grad_norm": [1e-3] * N, "loss": [2.3] * N}))
