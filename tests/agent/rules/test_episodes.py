"""Episodes: told while they last, at least once, and no longer than they were asked to be."""

from __future__ import annotations

from rankscope.agent.model import Finding
from rankscope.agent.rules._episodes import Episodes


def test_told_while_it_lasts_and_not_after_its_end() -> None:
    episodes = Episodes()
    episodes.begin(Finding("x"))
    assert len(episodes.tell(1.0)) == len(episodes.tell(2.0)) == 1
    episodes.end(3.0)
    assert episodes.tell(3.0) == ()


def test_what_began_and_ended_between_two_looks_is_told_once() -> None:
    episodes = Episodes()
    for name in "ab":
        episodes.begin(Finding(name))
        episodes.end(1.0)
    assert [finding.summary for finding in episodes.tell(1.0)] == ["a", "b"]
    assert episodes.tell(1.1) == ()


def test_held_for_as_long_as_it_was_asked_to() -> None:
    episodes = Episodes(hold=30)
    episodes.begin(Finding("x"))
    episodes.end(10.0)
    assert len(episodes.tell(39.0)) == 1
    assert episodes.tell(40.0) == ()
    assert episodes.current is None
