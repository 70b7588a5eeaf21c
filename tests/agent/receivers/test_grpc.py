"""Who may connect, and what becomes of what they send."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import grpc
import grpc.aio
import pytest

from rankscope.agent.demo.stage import free_port
from rankscope.agent.ingest import Ingest
from rankscope.agent.receivers.fake_rank import FakeRank
from rankscope.agent.receivers.grpc import Grpc
from rankscope.agent.runs.naming import run_name
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node
from rankscope.v1 import ingest_pb2, ingest_pb2_grpc

T = TypeVar("T")
Call: TypeAlias = "grpc.aio.StreamStreamCall[ingest_pb2.FromRank, ingest_pb2.FromAgent]"
Start = Callable[[Grpc], Awaitable[Node]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a receiver whose ranks end up in a node's state; return the node."""
    started: list[tuple[Grpc, Ingest]] = []

    async def run(receiver: Grpc) -> Node:
        node = Node("host")
        ingest = Ingest(node, None, lambda rank, batch: None, lambda reason: None)
        await receiver.start(ingest)
        started.append((receiver, ingest))
        return node

    yield run
    for receiver, ingest in started:
        await receiver.stop()
        await ingest.close(1.0)


async def in_thread(what: Callable[[], T]) -> T:
    return await asyncio.to_thread(what)


def only_rank(node: Node) -> Rank:
    ((_, rank),) = node.ranks()
    return rank


async def test_points_phases_and_texts_arrive(start: Start, tmp_path: Path) -> None:
    node = await start(Grpc(listen=f"unix://{tmp_path}/a.sock"))

    def say() -> None:
        with FakeRank(f"unix:{tmp_path}/a.sock", config={"lr": 0.1}) as rank:
            rank.log(1, {"loss": 2.0, "lr": float("nan")}, {"forward": 0.25})
            rank.log(2, {"loss": float("inf"), "lr": 0.1}, {"forward": 0.5})
            rank.event(2, ingest_pb2.Event(expect=ingest_pb2.Expect(seconds=60)))
            rank.send(
                ingest_pb2.FromRank(
                    heartbeat=ingest_pb2.Heartbeat(
                        monotonic_ns=time.monotonic_ns(),
                        clock_offset_ns=time.time_ns() - time.monotonic_ns(),
                        phase="forward",
                        dropped={"not_a_number": 3},
                    )
                )
            )
            rank.goodbye(2)
            rank.wait_safe()

    await in_thread(say)
    rank = only_rank(node)
    assert rank.series["loss"].value.tolist() == [2.0, float("inf")]
    assert rank.phase_seconds == {"forward": 0.75}
    assert rank.step == 2
    assert abs(rank.last_step_time - time.time()) < 60
    assert rank.expect_until > time.time() + 30
    assert rank.heartbeat is not None
    assert rank.heartbeat.dropped == {"not_a_number": 3}
    assert rank.state(time.time()) == "finished"
    assert rank.info.config == {"lr": 0.1}


async def test_the_welcome_names_the_run_as_labels_and_folders_do(start: Start, tmp_path: Path) -> None:
    await start(Grpc(listen=f"unix://{tmp_path}/a.sock"))

    def name() -> str:
        with FakeRank(f"unix:{tmp_path}/a.sock", run_id="job-7", name="exp 1") as rank:
            assert rank.welcome is not None
            return rank.welcome.run

    assert await in_thread(name) == run_name("exp 1", "job-7")
    assert run_name("exp 1", "job-7").startswith("exp-1-")


async def test_the_socket_is_for_its_owner_alone(start: Start, tmp_path: Path) -> None:
    await start(Grpc(listen=f"unix://{tmp_path}/a.sock"))
    assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o600


async def test_a_socket_left_behind_is_replaced(start: Start, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "a.sock"))
    await start(Grpc(listen=f"unix://{tmp_path}/a.sock"))


async def test_tcp_beyond_this_machine_wants_authentication(start: Start, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="open to other machines"):
        await start(Grpc(listen=f"unix://{tmp_path}/a.sock", tcp=":0"))


async def test_tcp_asks_for_the_token(start: Start, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "token").write_text("s3cret\n")
    await start(Grpc(listen=f"unix://{tmp_path}/a.sock", tcp=f"127.0.0.1:{port}", token_file=str(tmp_path / "token")))

    def connect(token: str) -> grpc.StatusCode:
        try:
            with FakeRank(f"127.0.0.1:{port}", token=token) as rank:
                rank.log(1, {"loss": 1.0})
                rank.wait_safe()
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    assert await in_thread(lambda: connect("")) is grpc.StatusCode.UNAUTHENTICATED
    assert await in_thread(lambda: connect("wrong")) is grpc.StatusCode.UNAUTHENTICATED
    assert await in_thread(lambda: connect("s3cret")) is grpc.StatusCode.OK


async def test_eight_ranks_at_once(start: Start, tmp_path: Path) -> None:
    node = await start(Grpc(listen=f"unix://{tmp_path}/a.sock"))

    def say(i: int) -> None:
        with FakeRank(f"unix:{tmp_path}/a.sock", rank=i, world_size=8) as rank:
            for step in range(50):
                rank.log(step, {"loss": float(step)})
            rank.wait_safe()

    await asyncio.gather(*(in_thread(lambda i=i: say(i)) for i in range(8)))  # type: ignore[misc]
    assert sorted(rank.info.key.rank for _, rank in node.ranks()) == list(range(8))
    assert {rank.points for _, rank in node.ranks()} == {50}


def hello(**fields: object) -> ingest_pb2.FromRank:
    return ingest_pb2.FromRank(hello=ingest_pb2.Hello(run_id="r", session=1, world_size=1, **fields))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def stream(channel: grpc.aio.Channel) -> Call:
    return cast("ingest_pb2_grpc.IngestAsyncStub", ingest_pb2_grpc.IngestStub(channel)).Stream()


async def test_what_no_correct_sdk_sends_is_refused_with_a_clear_error(start: Start, tmp_path: Path) -> None:
    node = await start(Grpc(listen=f"unix://{tmp_path}/a.sock"))
    media = ingest_pb2.Event(media=ingest_pb2.Media(kind="table", metadata_json="[" * 60_000, last=True))
    odd = ingest_pb2.Batch(first_sequence=1, records=1, events=[media])
    deep = '{"a":' * 500 + "1" + "}" * 500
    for messages, why in (
        ([hello(config_json=deep)], "nested deeper"),
        ([hello(), ingest_pb2.FromRank(batch=odd)], "metadata is no JSON"),
    ):
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/a.sock") as channel:
            call = stream(channel)
            for message in messages:
                await call.write(message)
            with pytest.raises(grpc.aio.AioRpcError, match=why) as error:
                async for _ in call:
                    pass
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert only_rank(node).refused == {"bad_payload": 1}, "of a rank that had said who it is"


async def test_a_stream_that_is_broken_off_leaves_no_task_behind(start: Start, tmp_path: Path) -> None:
    node = await start(Grpc(listen=f"unix://{tmp_path}/a.sock"))
    before = asyncio.all_tasks()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/a.sock") as channel:
        call = stream(channel)
        await call.write(hello())
        await call.read()
        assert any("saved" in repr(task) for task in asyncio.all_tasks() - before)
        call.cancel()
        deadline = time.monotonic() + 5
        while only_rank(node).connected or any("saved" in repr(task) for task in asyncio.all_tasks()):
            assert time.monotonic() < deadline, asyncio.all_tasks() - before
            await asyncio.sleep(0.01)
