"""Series: what came since a position, and where the steps went back."""

from __future__ import annotations

import numpy as np
import pytest

from rankscope.agent.rules._history import MOST, History
from rankscope.agent.rules._reading import Reader
from rankscope.agent.rules._spread import Spread
from rankscope.agent.runs.series import Series


def extend(series: Series, *steps: int) -> None:
    step = np.array(steps)
    series.extend(step, step.astype(float), step * 10.0)


def test_since_gives_what_came_after_a_position() -> None:
    series = Series("loss", window=4)
    extend(series, 1, 2, 3)
    assert series.since(1)[0].tolist() == [2, 3]
    extend(series, 4, 5, 6)
    assert series.since(0)[0].tolist() == [3, 4, 5, 6]  # what has left the window is not among them
    assert series.since(6)[0].tolist() == []


@pytest.mark.parametrize("groups", [[[1, 2, 3, 2, 3]], [[1, 2, 3], [2, 3]], [[1], [2], [3], [2], [3]]])
def test_steps_that_go_back_are_seen_however_points_are_grouped(groups: list[list[int]]) -> None:
    series, reader = Series("loss"), Reader()
    pieces = []
    for group in groups:
        extend(series, *group)
        pieces += [(piece.back, piece.step.tolist()) for piece in reader.read(series)]
    assert [step for _, steps in pieces for step in steps] == [1, 2, 3, 2, 3]
    assert [steps[0] for back, steps in pieces if back] == [2]


def test_repeated_steps_are_no_return() -> None:
    series = Series("loss")
    extend(series, 1, 1, 2, 2)
    assert series.returns == []


def test_spread_knows_median_deviation_and_extremes_of_the_newest() -> None:
    values = np.random.default_rng(0).normal(5, 2, 500)
    spread = Spread(200, values.tolist())
    newest = values[-200:]
    assert spread.median == pytest.approx(np.median(newest), abs=0.05)
    assert spread.sigma == pytest.approx(2, abs=0.4)
    assert (spread.low, spread.high, len(spread)) == (newest.min(), newest.max(), 200)
    spread.drop_newest(199)
    assert spread.newest == [newest[0]]


def test_history_is_bounded_and_keeps_the_mean() -> None:
    history = History()
    for step in range(100_000):
        history.add(step, float(step))
    assert MOST // 2 <= len(history.bins) < MOST
    means = [one.mean for one in history.bins]
    assert np.mean(means) == pytest.approx((history.points - 1) / 2)
    history.back(50_000)
    assert history.bins[-1].last < 50_000
