"""What a node knows of its machine: what was sampled last, and before."""

from __future__ import annotations

from rankscope.agent.model import Metric, Sample
from rankscope.agent.runs.state import Node

VALUE = Metric("value", "gauge", "", ("which",))


def sampled(*which: str) -> list[Sample]:
    return [Sample(VALUE, 1.0, (each,)) for each in which]


def test_a_window_grows_while_its_series_is_sampled_and_goes_with_it() -> None:
    node = Node("n")
    for second in range(3):
        node.observe("gpu", sampled("a", "b"), float(second))
    window = node.window("value", "a")
    assert window is not None
    assert len(window) == 3
    node.observe("gpu", sampled("b"), 3.0)
    assert node.window("value", "a") is None


def test_a_failure_ends_no_window_and_keeps_none_of_what_is_gone_after_it() -> None:
    """What is seen again goes on where it was; what is not would be there for ever, and be taken for true."""
    node = Node("n")
    node.observe("gpu", sampled("a", "b"), 0.0)
    node.fail("gpu", "the driver did not answer")
    node.observe("gpu", sampled("b"), 2.0)
    assert dict(node.latest("value")) == {("b",): 1.0}
    window = node.window("value", "b")
    assert window is not None
    assert len(window) == 2


def test_samplers_do_not_end_each_others_windows() -> None:
    node = Node("n")
    node.observe("cpu", sampled("a"), 0.0)
    node.observe("gpu", sampled("b"), 0.0)
    node.observe("gpu", (), 1.0)
    assert dict(node.latest("value")) == {("a",): 1.0}


def test_of_a_sampler_that_is_switched_off_nothing_is_left() -> None:
    node = Node("n")
    node.observe("cpu", sampled("a"), 0.0)
    node.observe("gpu", sampled("b"), 0.0)
    node.fail("gpu", "the driver did not answer")
    node.forget("gpu")
    assert dict(node.latest("value")) == {("a",): 1.0}
    assert node.samples.keys() == node.sampled.keys() == {"cpu"}
    assert not node.failing
