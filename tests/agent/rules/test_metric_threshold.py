"""MetricThreshold: users' own conditions, which can say what they need and do nothing else."""

from __future__ import annotations

import pytest

from rankscope.agent.model import Span
from rankscope.agent.reports.recorded import check_rule, fired_by, rows_of
from rankscope.agent.rules._expression import Expression
from rankscope.agent.rules.metric_threshold import MetricThreshold


def steps(expr: str, metrics: dict[str, list[float | None]], after: Span | None = None) -> list[int | None]:
    def rule() -> MetricThreshold:
        return MetricThreshold(name="Mine", expr=expr, after=after or Span())

    return [found.step for found in check_rule(rule, rows_of(metrics))]


def test_fires_at_the_point_and_again_after_it_was_well() -> None:
    accuracy: list[float | None] = [0.9, 0.4, 0.3, 0.8, 0.2]
    assert steps("val_accuracy < 0.5", {"val_accuracy": accuracy}) == [1, 4]


def test_waits_for_what_it_was_told_to() -> None:
    assert steps("acc < 0.5", {"acc": [0.1] * 10}, Span(steps=5)) == [5]
    assert steps("acc < 0.5", {"acc": [0.1] * 10}, Span(seconds=7)) == [7]


def test_metrics_logged_at_different_steps_count_with_their_newest_value() -> None:
    metrics: dict[str, list[float | None]] = {"loss": [1.0, 1.0, 1.0, 1.0], "val_loss": [None, 1.5, None, 3.0]}
    assert steps("val_loss > 2 * loss", metrics) == [3]


@pytest.mark.parametrize("name", ['"eval/accuracy"', "eval_accuracy", "val_accuracy"])
def test_names_are_names_or_roles_whatever_their_separators(name: str) -> None:
    assert steps(f"{name} < 0.5", {"eval/accuracy": [0.9, 0.1]}) == [1]


def test_arithmetic_that_fails_does_not_hold() -> None:
    assert steps("loss / lr > 1", {"loss": [1.0, 1.0], "lr": [0.0, 0.1]}) == [1]


def test_is_incomplete_without_its_metric() -> None:
    rule = MetricThreshold(name="Mine", expr="bleu < 0.5")
    assert fired_by(rule, rows_of({"loss": [1.0]})).lacking == {"MetricThreshold": "no bleu was logged"}


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true') > 0",
        "loss.__class__ == 1",
        "(lambda: 1)() > 0",
        "[x for x in loss] > 0",
        "open('x') > 1",
        "loss",
        "1 < 2",
        "loss <",
        "loss > 'a' if lr else 1",
        "loss ** 9 ** 9 ** 9 > 1",
        "x" * 600 + " > 1",
    ],
)
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        Expression(text)
