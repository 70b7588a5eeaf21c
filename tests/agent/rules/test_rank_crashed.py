"""RankCrashed: whoever ended as it should not, and who was first."""

from __future__ import annotations

import pytest

from rankscope.agent.model import Batch, End, Finding, Goodbye, RankInfo, RankKey
from rankscope.agent.rules.rank_crashed import RankCrashed
from rankscope.agent.runs.state import Node

LOST = (
    "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1",
    "RuntimeError: [gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:59796: Connection reset by peer. This is …",
    "RuntimeError: [gloo/transport/tcp/pair.cc:630] Write error [127.0.0.1]:4021: Broken pipe",
    "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:268, remote process exited or there was …",
    "DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1275\nLast error:\nNet : Connection closed by remote peer",
    "torch.distributed.DistNetworkError: failed to recv, got 0 bytes. Connection was likely closed.",
)


def judged(*goodbyes: Goodbye | None, now: float = 1000.0) -> tuple[Finding, ...]:
    node = Node("n")
    for number, goodbye in enumerate(goodbyes):
        rank = node.attach(RankInfo(RankKey("p", "r", number), number + 1, "id"), 0.0)
        if goodbye is not None:
            rank.apply(Batch(1, 1, (), (goodbye,)), goodbye.time)
    verdict = RankCrashed().check(node, node.runs["p", "r"], now)
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


def test_who_followed_is_named_with_who_was_first() -> None:
    (first,) = judged(
        Goodbye(7, 9.0, End.SIGNAL, signal=11),
        Goodbye(7, 12.0, End.SIGNAL, signal=15),
        Goodbye(7, 609.0, End.SIGNAL, signal=6),
    )
    assert first.rank == 0
    assert first.description == "Because of it ended ranks 1 and 2."


def test_ranks_that_fail_alike_at_one_moment_are_told_together() -> None:
    raised = [Goodbye(7, 9.0 + 0.1 * rank, End.EXCEPTION, 1, exception="ValueError: no") for rank in range(3)]
    assert [found.rank for found in judged(*raised)] == [0, 1, 2]


@pytest.mark.parametrize("exception", LOST)
def test_a_lost_connection_is_another_ranks_end_whoever_is_heard_first(exception: str) -> None:
    follower = Goodbye(7, 9.0, End.EXCEPTION, 1, exception=exception, traceback="a\nb\nc")
    (culprit,) = judged(follower, Goodbye(7, 9.2, End.VANISHED))
    assert culprit.rank == 1
    assert culprit.description == "Because of it ended rank 0."
    assert [cause.cause for cause in culprit.causes] == ["something killed the process"]


@pytest.mark.parametrize("exception", LOST)
def test_who_only_followed_is_told_when_nobody_here_was_first(exception: str) -> None:
    follower = Goodbye(7, 9.0, End.EXCEPTION, 1, exception=exception, traceback="a\nb\nc")
    assert judged(follower, None, now=10.0) == (), "the rank that was killed may be heard a moment later"
    (found,) = judged(follower, None, now=12.0)
    assert found.rank == 0
    assert [cause.cause for cause in found.causes] == ["another rank went away"]


def test_a_server_of_data_that_goes_away_is_no_rank() -> None:
    raised = "ConnectionResetError: [Errno 104] Connection reset by peer"
    (found,) = judged(Goodbye(7, 9.0, End.EXCEPTION, 1, exception=raised), None, now=9.1)
    assert [cause.cause for cause in found.causes] == ["the training code raised an exception"]


def test_who_followed_a_rank_out_of_memory_is_not_to_blame() -> None:
    out = Goodbye(7, 9.0, End.EXCEPTION, 1, exception="torch.OutOfMemoryError: CUDA out of memory")
    assert judged(out, Goodbye(7, 9.1, End.SIGNAL, signal=15)) == ()


def test_whoever_presses_ctrl_c_is_not_told_what_that_did() -> None:
    lost = Goodbye(7, 9.1, End.EXCEPTION, 1, exception=LOST[0])
    assert judged(Goodbye(7, 9.0, End.SIGNAL, 130, signal=2), Goodbye(7, 9.0, End.SIGNAL, 130, signal=2), lost) == ()


def test_a_run_that_was_asked_to_end_is_told_as_such() -> None:
    asked = Goodbye(7, 9.0, End.SIGNAL, signal=15)
    first, second = judged(asked, asked)
    assert [cause.cause for cause in (*first.causes, *second.causes)] == ["it was asked to end"] * 2
    assert {first.severity, second.severity} == {"warning"}
