"""A thinned curve shows every peak and every value that is no number."""

from __future__ import annotations

import numpy as np
import pytest

from rankscope.agent.web.curves import thin


def test_a_short_curve_is_left_as_it_is() -> None:
    assert thin(np.arange(10.0), 10).tolist() == list(range(10))


@pytest.mark.parametrize("points", [3, 10, 100, 999])
@pytest.mark.parametrize("n", [1001, 2048, 5000])
def test_no_more_points_than_asked_for_in_order(points: int, n: int) -> None:
    chosen = thin(np.sin(np.arange(n)), points)
    assert len(chosen) <= max(points, 5)
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] == 0
    assert chosen[-1] == n - 1


def test_a_single_spike_a_single_dip_and_a_single_nan_are_kept() -> None:
    value = np.ones(2048)
    value[1000], value[1500], value[77] = 50.0, -50.0, np.nan
    assert {77, 1000, 1500} <= set(thin(value, 30).tolist())


def test_a_curve_of_nothing_but_nan_is_thinned_too() -> None:
    assert 0 < len(thin(np.full(2048, np.nan), 100)) <= 100
