"""RankCrashed: whoever ended as it should not, and who was first."""

from __future__ import annotations

import pytest

from rankscope.agent.model import Batch, End, Finding, Goodbye, RankInfo, RankKey
from rankscope.agent.rules.rank_crashed import RankCrashed
from rankscope.agent.runs.state import Node


def judged(*goodbyes: Goodbye | None) -> tuple[Finding, ...]:
    node = Node("n")
    for number, goodbye in enumerate(goodbyes):
        rank = node.attach(RankInfo(RankKey("p", "r", number), number + 1, "id"), 0.0)
        if goodbye is not None:
            rank.apply(Batch(1, 1, (), (goodbye,)), goodbye.time)
    verdict = RankCrashed().check(node, node.runs["p", "r"], 100.0)
    assert isinstance(verdict, tuple)
    return verdict


@pytest.mark.parametrize(
    ("goodbye", "words"),
    [
        (Goodbye(7, 9.0, End.EXCEPTION, 1, exception="ValueError: no"), "ValueError: no"),
        (Goodbye(7, 9.0, End.SIGNAL, signal=9), "SIGKILL"),
        (Goodbye(7, 9.0, End.VANISHED), "vanished"),
        (Goodbye(7, 9.0, End.FINISHED, 3), "exit status 3"),
    ],
)
def test_every_bad_end_is_told(goodbye: Goodbye, words: str) -> None:
    (found,) = judged(goodbye)
    assert (found.rank, found.step) == (0, 7)
    assert words in found.summary


def test_a_good_end_and_no_end_are_silent() -> None:
    assert judged(Goodbye(7, 9.0, End.FINISHED), None) == ()


def test_out_of_memory_is_told_by_another_rule() -> None:
    assert judged(Goodbye(7, 9.0, End.EXCEPTION, 1, exception="torch.OutOfMemoryError: CUDA out of memory")) == ()


def test_who_followed_is_told_apart_from_who_was_first() -> None:
    first, second = judged(Goodbye(7, 9.0, End.SIGNAL, signal=11), Goodbye(7, 12.0, End.SIGNAL, signal=15))
    assert all("followed" not in cause.cause for cause in first.causes)
    assert second.causes[0].cause == "it followed another rank"


@pytest.mark.parametrize(
    "exception",
    [
        "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1",
        "DistBackendError: ncclRemoteError: A call failed possibly due to a network error or a remote process exiting",
    ],
)
def test_a_lost_connection_is_another_ranks_end_whoever_is_heard_first(exception: str) -> None:
    follower, culprit = judged(
        Goodbye(7, 9.0, End.EXCEPTION, 1, exception=exception, traceback="a\nb\nc"), Goodbye(7, 9.2, End.VANISHED)
    )
    assert [cause.cause for cause in follower.causes] == ["another rank went away"]
    assert [cause.cause for cause in culprit.causes] == ["something killed the process"]
