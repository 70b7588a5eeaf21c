"""Bars and curves of one line, and who gets the lines of a screen."""

from __future__ import annotations

import math

import pytest

from rankscope.agent.terminal.marks import bar, curve, legend, phases
from rankscope.agent.terminal.room import share
from rankscope.agent.terminal.words import counted, duration, number, spread

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("ratio", "drawn"),
    [
        (0.0, "····"),
        (0.5, "██··"),
        (1.0, "████"),
        (0.875, "███▌"),
        (0.999, "████"),
        (7.0, "████"),
        (-1.0, "····"),
        (None, "····"),
        (NAN, "····"),
    ],
)
def test_a_bar_is_always_as_wide_as_its_column(ratio: float | None, drawn: str) -> None:
    assert bar(ratio, 4, "green").plain == drawn


def test_a_curve_goes_from_its_least_to_its_greatest_value() -> None:
    assert curve([-1.0, 0.0, 1.0], 3).plain == "▁▅█"
    assert curve([5.0], 4).plain == "▁   "
    assert curve([], 3).plain == "   "


def test_a_curve_of_positive_values_shows_ratios() -> None:
    """A loss of 100 at the beginning does not flatten what comes after it."""
    assert curve([100.0, 10.0, 1.0], 3).plain == "█▅▁"


def test_what_is_not_finite_is_marked_and_the_rest_is_drawn() -> None:
    assert curve([1.0, NAN, 2.0, INF, -INF], 5).plain == "▁×█××"
    assert curve([NAN] * 40, 4).plain == "××××"


def test_a_curve_longer_than_its_column_is_thinned_to_means() -> None:
    assert curve([-1.0, -1.0, 1.0, 1.0], 2).plain == "▁█"
    drawn = curve([float(i) for i in range(-500, 500)] + [NAN], 8).plain
    assert (len(drawn), drawn[0], drawn[-1]) == (8, "▁", "×")


def test_phases_stand_in_the_order_of_a_step_and_leave_room_for_what_was_not_timed() -> None:
    shares = {"optimizer": 0.1, "mine": 0.1, "forward": 0.2, "data": 0.4}
    assert phases(shares, 10, colour=False).plain == "ddddffom··"
    assert phases(shares, 10, colour=True).plain == "████████░░"
    assert phases({}, 3, colour=False).plain == "···"
    assert legend(["data", "mine"], colour=False).plain == "d data  m mine"


def test_small_phases_do_not_add_up_to_more_than_the_bar() -> None:
    drawn = phases({f"p{i}": 0.015 for i in range(66)}, 20, colour=False).plain
    assert len(drawn) == 20
    assert drawn.count("p") == 20


def test_needs_come_first_then_the_smallest_wishes() -> None:
    assert share(10, [100, 3, 100], [1, 1, 1]) == [4, 3, 3]
    assert share(60, [5, 9, 66], [1, 1, 1], (1, 1, 2)) == [5, 9, 46]
    assert share(4, [5, 5, 5], [3, 3, 3]) == [3, 1, 0]
    assert share(100, [2, 3], [1, 1]) == [2, 3]
    assert share(-3, [2, 3], [1, 1]) == [0, 0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0s"),
        (59.9, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (86_399, "23h 59m"),
        (90_000, "1d 01h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (1.5, "1.500"), (2e-5, "2.000e-05"), (0.0, "0"), (1234.0, "1234"), (NAN, "NaN"), (-INF, "-inf")],
)
def test_numbers_keep_their_width(value: float | None, words: str) -> None:
    assert number(value) == words


def test_many_values_in_few_words() -> None:
    assert spread([2.0, None, 1.0, NAN]) == "1.000–2.000, 1 not finite"
    assert spread([NAN]) == "1 not finite"
    assert spread([1.0, 1.0]) == "1.000"
    assert spread([None]) == ""
    assert counted(["running", "running"]) == "all running"
    assert counted(["running", "silent", "running"]) == "2 running, 1 silent"
