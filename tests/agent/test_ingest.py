"""What is taken counts once, and is acknowledged when the record says that it is on disk, not before."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import numpy as np
import pytest

from rankscope.agent import writing
from rankscope.agent.component import Unsafe
from rankscope.agent.ingest import Ingest
from rankscope.agent.model import Batch, Block, Column, End, Goodbye, RankInfo, RankKey
from rankscope.agent.runs.state import Node

INFO = RankInfo(RankKey("p", "r-1", 0), session=1, run_id="r")


class Memory:
    """A record in memory, whose disk can be full."""

    def __init__(self) -> None:
        self.full = False
        self.lost: set[RankKey] = set()  # ranks whose folders cannot be written
        self._ranks: dict[int, RankKey] = {}
        self.written: list[tuple[int, int]] = []
        self.safe: dict[int, int] = {}
        self._last: dict[int, int] = {}

    def begin(self, rank: RankInfo) -> int:
        return self.safe.get(rank.session, 0)

    def write(self, rank: RankInfo, batch: Batch) -> None:
        self.written.append((batch.first, batch.last))
        self._ranks[rank.session] = rank.key
        self._last[rank.session] = batch.last

    def commit(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "no space left on device")
        self.safe.update({key: last for key, last in self._last.items() if self._ranks[key] not in self.lost})
        if self.lost & set(self._ranks.values()):
            raise Unsafe("cannot write there", frozenset(self.lost))

    def close(self) -> None:
        self.commit()


def rows(first: int, last: int) -> Batch:
    n = last - first + 1
    steps = np.arange(first, last + 1)
    return Batch(first, last, (Block((Column("loss"),), steps, steps.astype(float), np.ones((n, 1))),))


def goodbye(sequence: int) -> Batch:
    return Batch(sequence, sequence, events=(Goodbye(1, 1.0, End.FINISHED),))


Make = Callable[[Memory | None], Ingest]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Ingest] = []

    def build(record: Memory | None) -> Ingest:
        ingest = Ingest(Node("host"), record, lambda rank, batch: None, failures.append)
        made.append(ingest)
        return ingest

    failures: list[str] = []
    yield build
    for ingest in made:
        await ingest.close(2.0)


async def test_what_is_committed_is_acknowledged(make: Make) -> None:
    record = Memory()
    session = await make(record).open(INFO)
    await session.take(rows(1, 5))
    assert await asyncio.wait_for(session.saved(), 60) == 5
    assert record.safe == {1: 5}


async def test_nothing_is_acknowledged_while_the_disk_is_full(make: Make) -> None:
    record = Memory()
    record.full = True
    session = await make(record).open(INFO)
    await session.take(goodbye(1))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(session.saved(), 1.2)
    record.full = False
    assert await asyncio.wait_for(session.saved(), 60) == 1


async def test_a_rank_whose_folder_cannot_be_written_holds_up_no_other(make: Make) -> None:
    record = Memory()
    record.lost = {INFO.key}
    ingest = make(record)
    other = RankInfo(RankKey("p", "r-1", 1), session=2, run_id="r")
    bad, good = await ingest.open(INFO), await ingest.open(other)
    await bad.take(rows(1, 5))
    await good.take(rows(1, 7))
    assert await asyncio.wait_for(good.saved(), 60) == 7
    assert bad.safe == 0
    await ingest.open(RankInfo(RankKey("p", "r-1", 2), session=3, run_id="r"))
    record.lost = set()
    assert await asyncio.wait_for(bad.saved(), 60) == 5


async def test_a_session_is_refused_while_the_record_cannot_be_written(make: Make) -> None:
    record = Memory()
    ingest = make(record)
    session = await ingest.open(INFO)
    await session.take(rows(1, 2))
    record.full = True
    with pytest.raises(OSError, match="no space"):
        await ingest.open(INFO)
    record.full = False


async def test_repeated_records_are_taken_once(make: Make) -> None:
    record = Memory()
    ingest = make(record)
    session = await ingest.open(INFO)
    await session.take(rows(1, 5))
    await session.take(rows(1, 5))
    await session.take(rows(6, 6))
    assert await asyncio.wait_for(session.saved(), 60)
    assert record.written == [(1, 5), (6, 6)]
    rank = ingest.node.rank(INFO.key)
    assert rank is not None
    assert rank.points == 6


async def test_records_that_overlap_are_an_error(make: Make) -> None:
    session = await make(Memory()).open(INFO)
    await session.take(rows(1, 5))
    with pytest.raises(ValueError, match="overlap"):
        await session.take(rows(4, 8))


async def test_a_gap_is_taken_and_counted(make: Make) -> None:
    ingest = make(Memory())
    session = await ingest.open(INFO)
    await session.take(rows(11, 12))
    rank = ingest.node.rank(INFO.key)
    assert rank is not None
    assert rank.refused == {"gap": 10}


async def test_a_new_stream_takes_the_session_over_where_the_old_one_was_safe(make: Make) -> None:
    ingest = make(Memory())
    old = await ingest.open(INFO)
    await old.take(rows(1, 3))
    new = await ingest.open(INFO)
    assert new.safe == 3
    with pytest.raises(ConnectionAbortedError):
        await old.take(rows(4, 4))
    await new.take(rows(4, 4))
    assert await asyncio.wait_for(new.saved(), 60) == 4


async def test_a_rank_is_connected_while_a_stream_is_open(make: Make) -> None:
    ingest = make(Memory())
    session = await ingest.open(INFO)
    rank = ingest.node.rank(INFO.key)
    assert rank is not None
    assert rank.connected
    session.close()
    assert not rank.connected


async def test_without_a_record_what_is_taken_is_safe(make: Make) -> None:
    session = await make(None).open(INFO)
    await session.take(rows(1, 5))
    assert await asyncio.wait_for(session.saved(), 60) == 5


async def test_streams_wait_while_too_much_is_not_yet_on_disk(make: Make) -> None:
    record = Memory()
    session = await make(record).open(INFO)
    record.full = True
    await session.take(rows(1, 2_000_000))
    waiting = asyncio.ensure_future(session.take(rows(2_000_001, 2_000_002)))
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    record.full = False
    await asyncio.wait_for(waiting, 60)


@pytest.mark.parametrize(
    ("defect", "seen"), [(RuntimeError("a defect"), ValueError), (OSError(errno.EIO, "broken"), ConnectionAbortedError)]
)
async def test_what_the_record_refuses_ends_the_stream_and_nothing_counts_as_safe(
    make: Make, defect: Exception, seen: type[Exception]
) -> None:
    """The error tells what it was: records that cannot be held, which the rank leaves out, or a disk that fails."""

    class Broken(Memory):
        def write(self, rank: RankInfo, batch: Batch) -> None:
            if batch.first == 2:
                raise defect
            super().write(rank, batch)

    record = Broken()
    ingest = make(record)
    session = await ingest.open(INFO)
    await session.take(rows(1, 1))
    assert await asyncio.wait_for(session.saved(), 60) == 1
    await session.take(rows(2, 2))

    with pytest.raises(seen):  # also where the rank waits for the acknowledgement and sends nothing more
        await asyncio.wait_for(session.saved(), 60)
    with pytest.raises(seen):
        await session.take(rows(3, 3))
    assert (await ingest.open(INFO)).safe == 1


async def test_a_stream_that_waited_for_room_while_another_took_over_adds_nothing(make: Make) -> None:
    record = Memory()
    ingest = make(record)
    old = await ingest.open(INFO)
    ingest.room.clear()
    waiting = asyncio.ensure_future(old.take(rows(1, 1)))
    await asyncio.sleep(0)
    await ingest.open(INFO)
    ingest.room.set()
    with pytest.raises(ConnectionAbortedError):
        await waiting
    assert record.written == []


async def test_closing_makes_safe_what_was_taken(make: Make) -> None:
    record = Memory()
    ingest = make(record)
    session = await ingest.open(INFO)
    await session.take(rows(1, 7))
    await ingest.close(2.0)
    assert record.safe == {1: 7}


async def test_a_hello_that_breaks_the_record_is_an_error_of_its_own_stream(make: Make) -> None:
    class Broken(Memory):
        def begin(self, rank: RankInfo) -> int:
            if rank.key.rank == 1:
                raise RecursionError("a defect")
            return super().begin(rank)

    ingest = make(Broken())
    with pytest.raises(OSError, match="a defect"):
        await asyncio.wait_for(ingest.open(RankInfo(RankKey("p", "r-1", 1), session=2, run_id="r")), 60)
    session = await asyncio.wait_for(ingest.open(INFO), 60)
    await session.take(rows(1, 5))
    assert await asyncio.wait_for(session.saved(), 60) == 5


async def test_a_commit_that_breaks_is_tried_again(make: Make) -> None:
    class Broken(Memory):
        broken = True

        def commit(self) -> None:
            if self.broken:
                self.broken = False
                raise ValueError("a defect")
            super().commit()

    session = await make(Broken()).open(INFO)
    await session.take(rows(1, 5))
    assert await asyncio.wait_for(session.saved(), 60) == 5


async def test_of_two_streams_that_begin_at_once_one_remains(make: Make) -> None:
    ingest = make(Memory())
    both = await asyncio.gather(ingest.open(INFO), ingest.open(INFO))
    done = await asyncio.gather(*(session.take(rows(1, 3)) for session in both), return_exceptions=True)
    assert [type(error) for error in done if error] == [ConnectionAbortedError]
    rank = ingest.node.rank(INFO.key)
    assert rank is not None
    assert (rank.points, rank.connected) == (3, True)


async def test_a_stream_whose_session_goes_on_in_another_one_ends(make: Make) -> None:
    ingest = make(Memory())
    old = await ingest.open(INFO)
    waiting = asyncio.ensure_future(old.saved())
    await ingest.open(INFO)
    with pytest.raises(ConnectionAbortedError):
        await asyncio.wait_for(waiting, 60)


async def test_what_the_other_ranks_have_is_asked_for_when_one_has_a_number_that_is_not_finite(make: Make) -> None:
    ingest = make(None)
    first = await ingest.open(INFO)
    second = await ingest.open(RankInfo(RankKey("p", "r-1", 1), session=2, run_id="r"))
    stranger = await ingest.open(RankInfo(RankKey("p", "other", 0), session=3, run_id="other"))
    await first.take(rows(1, 5))
    assert not second.questions.any
    for number in (6, 7):
        bad = Block((Column("loss"),), np.array([number]), np.array([float(number)]), np.array([[np.nan]]))
        await first.take(Batch(number, number, (bad,)))
    assert await second.asked() is None
    assert [there.questions.any for there in (first, second, stranger)] == [False, False, False], "once, and no other"


async def test_why_the_record_cannot_be_written_is_said_once_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[bool] = []

    class Full(Memory):
        def commit(self) -> None:
            tries.append(self.full)
            super().commit()

    async def until(tried: int) -> None:
        while len(tries) < tried:  # noqa: ASYNC110 (what is waited for is in another thread)
            await asyncio.sleep(0.01)

    monkeypatch.setattr(writing, "COMMIT_EVERY", 0.02)
    record, said = Full(), list[str]()
    ingest = Ingest(Node("host"), record, lambda rank, batch: None, said.append)
    session = await ingest.open(INFO)
    for episode in (1, 2):
        record.full = True
        await session.take(rows(episode, episode))
        await asyncio.wait_for(until(len(tries) + 5), 60)
        record.full = False
        assert await asyncio.wait_for(session.saved(), 60) == episode
        assert len(said) == episode
    await ingest.close(2.0)


async def test_two_jobs_that_are_the_same_rank_of_a_run_are_told_apart_from_a_restart(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (replace(INFO, session=pid, pid=pid, started=at) for pid, at in ((41, 1.0), (42, 100.0)))
    ingest = make(None)
    one, two = await ingest.open(first), await ingest.open(second)
    await one.take(rows(1, 100))  # what it had logged when it was killed; the time of row n is n
    await two.take(rows(1, 200))
    assert "mixed" not in caplog.text
    for last in (110, 120, 130):
        await one.take(rows(last - 9, last))
    assert caplog.text.count("processes 41 and 42 are both rank 0 of p/r-1, and their points are mixed") == 1
