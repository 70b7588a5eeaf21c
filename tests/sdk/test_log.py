"""What `log()` and `phase()` take, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import enum
import itertools
import math
import pickle
import signal
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rankscope import sdk
from rankscope.sdk import _session, _spool
from rankscope.sdk._records import Shape
from rankscope.sdk.testing import Point, capture

from .conftest import Script


def test_steps_count_from_zero_and_go_on_from_a_given_one() -> None:
    with capture() as sent:
        sdk.log(loss=3.0)
        sdk.log(loss=2.0)
        sdk.log(loss=1.0, step=10)
        sdk.log(loss=0.5)
    assert sent.scalar("loss") == [(0, 3.0), (1, 2.0), (10, 1.0), (11, 0.5)]


def test_steps_may_repeat_and_go_back() -> None:
    with capture() as sent:
        for step in (5, 5, 3, 4):
            sdk.log(loss=float(step), step=step)
    assert [step for step, _ in sent.scalar("loss")] == [5, 5, 3, 4]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (True, 1.0),
        (2**70, float(2**70)),
        (np.float32(1.5), 1.5),
        (np.float64(1.25), 1.25),
        (np.int64(-4), -4.0),
        (np.bool_(True), 1.0),
        (np.array(2.5), 2.5),
        (Decimal("0.5"), 0.5),
        (torch.tensor(2.5), 2.5),
        (torch.tensor([2.5], dtype=torch.bfloat16), 2.5),
        (torch.tensor(2.5, requires_grad=True), 2.5),
        (torch.nn.Parameter(torch.tensor(1.0)), 1.0),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
    ],
)
@pytest.mark.filterwarnings("error")
def test_numbers_of_every_kind(value: object, expected: float) -> None:
    with capture() as sent:
        sdk.log(value=value)
    assert sent.scalar("value") == [(0, expected)]


def test_not_a_number_is_a_value() -> None:
    with capture() as sent:
        sdk.log(loss=float("nan"), other=np.float32("nan"))
    assert [math.isnan(value) for name in ("loss", "other") for _, value in sent.scalar(name)] == [True, True]


@pytest.mark.parametrize("value", ["1.0", None, [1.0], b"1", 1j, object(), torch.zeros(2), np.zeros(3), 10**400])
def test_what_is_no_number_is_dropped_and_counted_and_the_rest_goes_on(value: object) -> None:
    with capture() as sent:
        sdk.log(loss=1.0, bad=value)
    assert sent.scalar("loss") == [(0, 1.0)]
    assert sent.scalar("bad") == []
    assert sent.dropped == {"not_a_number": 1}


def test_a_tensor_that_is_spread_over_ranks_is_no_number_and_one_that_each_holds_is(script: Script) -> None:
    """FSDP2's gradient norm is one: to put it together is a collective, in which a rank that logs alone hangs."""
    process = script("""
        import torch
        from torch.distributed import init_process_group
        from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, init_device_mesh
        from torch.testing._internal.distributed.fake_pg import FakeStore
        from rankscope import sdk
        from rankscope.sdk.testing import Point, capture

        init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
        mesh = init_device_mesh("cpu", (2,))
        given = {
            "norm": DTensor.from_local(torch.tensor(1.5), mesh, [Partial()], run_check=False),
            "shard": DTensor.from_local(torch.tensor([1.5]), mesh, [Shard(0)], run_check=False),
            "whole": DTensor.from_local(torch.tensor(2.5), mesh, [Replicate()], run_check=False),
        }
        with capture() as sent:
            sdk.log(given, loss=1.0)
        print({name: points[0].value for name, points in sent.scalars.items()}, sent.dropped)
    """)
    output, errors = process.communicate(timeout=60)
    assert output.strip() == "{'whole': 2.5, 'loss': 1.0} {'not_a_number': 2}"
    assert "norm is dropped: a DTensor spread over ranks (its full_tensor() is whole)" in errors


def test_one_warning_for_each_name(caplog: pytest.LogCaptureFixture) -> None:
    with capture() as sent:
        for _ in range(5):
            sdk.log(a="x", b="x")
    assert len([record for record in caplog.records if record.name == "rankscope"]) == 2
    assert sent.dropped == {"not_a_number": 10}


def test_nested_dicts_join_with_a_slash() -> None:
    with capture() as sent:
        nested: dict[Any, object] = {"train": {"loss": 1.0, "by": {"layer": 2}}, 7: 3}
        sdk.log(nested, lr=0.5)
    assert {name: points[0].value for name, points in sent.scalars.items()} == {
        "train/loss": 1.0,
        "train/by/layer": 2.0,
        "7": 3.0,
        "lr": 0.5,
    }


def test_names_may_be_members_of_an_enum_of_strings() -> None:
    class Name(str, enum.Enum):
        LOSS = "loss"
        FORWARD = "forward"

    with capture() as sent:
        with sdk.phase(Name.FORWARD):
            pass
        sdk.log({Name.LOSS: 1.0, "by": {Name.LOSS: 2.0}})
    assert sent.scalars == {"loss": [Point(0, 1.0)], "by/loss": [Point(0, 2.0)]}
    assert {type(name) for name in (*sent.scalars, *sent.phases)} == {str}


def test_dicts_that_hold_each_other_cost_no_more_than_any_others() -> None:
    within: dict[str, object] = {"loss": 1.0}
    within.update(a=within, b={"back": within})
    doubled: dict[str, object] = {"x": 1.0}
    for _ in range(16):
        doubled = {"a": doubled, "b": doubled, "c": doubled}

    class Endless(Mapping[str, object]):
        def __getitem__(self, key: str) -> object:
            return 1.0

        def __iter__(self) -> Iterator[str]:
            return map(str, itertools.count())

        def __len__(self) -> int:
            return 1

    with capture() as sent:
        sdk.log(within)
        sdk.log(by=within)
        sdk.log(doubled)
        sdk.log(Endless())
        sdk.log(loss=2.0)
    assert sent.scalar("loss") == [(0, 1.0), (4, 2.0)]
    assert sent.scalar("by/loss") == [(1, 1.0)]
    assert sent.dropped["not_a_number"] == 4
    assert sent.dropped["too_many_names"] > 15_000


def test_a_step_that_is_no_integer_counts_as_not_given(caplog: pytest.LogCaptureFixture) -> None:
    bad: Any = "seven"
    with capture() as sent:
        sdk.log(loss=1.0, step=bad)
        sdk.log(loss=2.0, step=np.int64(4))
        sdk.log(loss=3.0, step=2**80)
    assert sent.scalar("loss") == [(0, 1.0), (4, 2.0), (5, 3.0)]
    assert sent.dropped == {"bad_argument": 2}


def test_after_the_largest_step_others_follow() -> None:
    with capture() as sent:
        sdk.log(loss=1.0, step=2**63 - 1)
        sdk.log(loss=2.0, step=2**62 - 1)
        sdk.log(loss=3.0)
        sdk.log(loss=4.0, step=-(2**62))
    assert sent.scalar("loss") == [(0, 1.0), (2**62 - 1, 2.0), (2**62, 3.0), (-(2**62), 4.0)]
    assert sent.dropped == {"bad_argument": 1}


def test_a_step_in_the_place_of_the_metrics_is_told_where_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    misplaced: Any = 7
    with capture() as sent:
        sdk.log(misplaced, loss=1.0)
    assert sent.scalar("loss") == [(0, 1.0)]
    assert "the step goes in by name: step=" in caplog.text


def test_a_second_positional_argument_is_said_and_survived() -> None:
    log: Any = sdk.log
    with capture() as sent:
        log({"loss": 1.0}, 7)
        log("nonsense")
    assert sent.scalar("loss") == [(7, 1.0)]


def test_names_are_bounded() -> None:
    with capture() as sent:
        for first in range(0, 6000, 100):
            sdk.log({f"name{number}": 1.0 for number in range(first, first + 100)})
        sdk.log({"x" * 300: 1.0, "": 2.0})
    assert len(sent.scalars) == 5000
    assert sent.dropped == {"too_many_names": 1002}


def test_ever_new_combinations_of_names_do_not_grow_without_bound() -> None:
    with capture() as sent:
        for round_ in range(300):
            sdk.log({f"n{(round_ * 7 + k * k) % 2000}": 1.0 for k in range(1000)})
    combined = sum(len(points) for points in sent.scalars.values())
    assert combined == sum(len({(r * 7 + k * k) % 2000 for k in range(1000)}) for r in range(300))


def test_phases_travel_with_the_step_and_nested_ones_count_once() -> None:
    with capture() as sent:
        with sdk.phase("forward"):
            time.sleep(0.01)
            with sdk.phase("comm"):
                time.sleep(0.02)
        sdk.log(loss=1.0)
        with sdk.phase("forward"):
            pass
        sdk.log(loss=1.0)
    forward, comm = sent.phases["forward"], sent.phases["comm"]
    assert [point.step for point in forward] == [0, 1]
    assert 0.01 <= forward[0].value < 0.02 <= comm[0].value
    assert len(comm) == 1


def test_a_phase_that_is_open_at_log_goes_on_into_the_next_step() -> None:
    with capture() as sent, sdk.phase("eval"):
        time.sleep(0.005)
        sdk.log(loss=1.0)
        time.sleep(0.005)
        sdk.log(loss=1.0)
    assert [point.value >= 0.005 for point in sent.phases["eval"][:2]] == [True, True]


def test_an_exception_ends_a_phase_and_passes() -> None:
    with capture() as sent:
        with pytest.raises(ValueError, match="mine"), sdk.phase("forward"):
            raise ValueError("mine")
        sdk.log(loss=1.0)
    assert len(sent.phases["forward"]) == 1


def test_batches_times_the_wait_and_keeps_length_and_items() -> None:
    def slow() -> Any:
        for item in range(3):
            time.sleep(0.003)
            yield item

    with capture() as sent:
        assert len(sdk.batches([1, 2])) == 2  # type: ignore[arg-type]
        for item in sdk.batches(slow()):
            sdk.log(item=item)
    assert [value for _, value in sent.scalar("item")] == [0.0, 1.0, 2.0]
    assert all(point.value >= 0.003 for point in sent.phases["data"][:3])


def test_batches_holds_no_batch_and_hides_nothing_of_the_loader() -> None:
    data: Any = torch.arange(4.0)
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(data, batch_size=2)
    with capture():
        batches: Any = sdk.batches(loader)
        assert batches.dataset is loader.dataset
        for batch in batches:
            held = weakref.ref(batch)
            del batch
            assert held() is None
        assert not hasattr(batches, "nothing_of_the_kind")
        assert len(copy.copy(batches)) == 2


def test_batches_of_whatever_it_is_are_as_that_is() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def collect(numbers: Any) -> list[int]:
        return [number async for number in numbers]

    class Old:
        def __getitem__(self, index: int) -> int:
            return [1, 2][index]

    batches: Any = sdk.batches
    with capture() as sent:
        stream = batches(iter([1, 2]))
        assert (next(stream), list(stream), next(stream, None)) == (1, [2], None)
        endless = batches(itertools.count())
        assert next(endless) == 0
        assert endless
        generator = batches(number for number in [1, 2])
        assert generator
        generator.close()
        assert list(generator) == []
        assert list(batches(Old())) == [1, 2]
        assert (batches([7, 8])[1], 7 in batches([7, 8]), bool(batches([]))) == (8, True, False)
        assert asyncio.run(collect(batches(numbers()))) == [1, 2]
        for nothing in (None, 5):
            assert batches(nothing) is nothing
        sdk.log(loss=1.0)
    assert set(sent.phases) == {"data"}


def test_batches_given_too_much_or_nothing_say_so_and_hand_on_what_there_is() -> None:
    batches: Any = sdk.batches
    with capture() as sent:
        assert list(batches([1, 2], 3)) == [1, 2]
        assert list(batches(iterable=[1, 2], prefetch=3)) == [1, 2]
        assert list(batches()) == []
    assert sent.warnings == {"batches:TypeError": 3}


def test_what_times_may_be_copied_and_sent_elsewhere_and_belongs_to_the_session_there() -> None:
    """A model may hold a phase, and be copied as a whole."""
    with capture():
        held: dict[str, Any] = {"phase": sdk.phase("forward"), "loader": sdk.batches([1, 2])}
        away = pickle.dumps(held)
    for made in (copy.deepcopy(held), pickle.loads(away)):
        with made["phase"]:
            assert list(made["loader"]) == [1, 2]
    with capture() as sent:
        made = pickle.loads(away)
        with made["phase"]:
            assert list(made["loader"]) == [1, 2]
        sdk.log(loss=1.0)
    assert set(sent.phases) == {"forward", "data"}


def test_an_error_of_the_loader_is_the_users() -> None:
    def broken() -> Any:
        yield 1
        raise RuntimeError("loader")

    with capture(), pytest.raises(RuntimeError, match="loader"):
        for _ in sdk.batches(broken()):
            pass


def test_phases_of_other_threads_do_not_count_into_the_step() -> None:
    def checkpoint() -> None:
        with sdk.phase("checkpoint"):
            time.sleep(0.005)

    with capture() as sent:
        with sdk.phase("forward"):
            thread = threading.Thread(target=checkpoint)
            thread.start()
            thread.join()
        sdk.log(loss=1.0)
    assert set(sent.phases) == {"forward"}


def test_the_step_passes_to_another_thread_when_its_own_has_ended() -> None:
    def warm_up() -> None:
        sdk.phase("warm-up").__enter__()

    with capture() as sent:
        thread = threading.Thread(target=warm_up)
        thread.start()
        thread.join()
        for _ in range(2):
            with sdk.phase("forward"):
                pass
            sdk.log(loss=1.0)
    assert {name: len(points) for name, points in sent.phases.items()} == {"forward": 2}


def test_threads_share_a_session() -> None:
    def work(name: str) -> None:
        for number in range(2000):
            sdk.log({name: float(number)})

    with capture() as sent:
        threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all([v for _, v in sent.scalar(f"t{n}")] == [float(k) for k in range(2000)] for n in range(4))
    assert sorted(point.step for points in sent.scalars.values() for point in points) == list(range(8000))


def test_a_signal_handler_that_logs_interrupts_nothing() -> None:
    """A handler runs between any two instructions of a log() that it interrupts."""
    fired = 0

    def handler(_number: int, _frame: object) -> None:
        nonlocal fired
        fired += 1
        sdk.log(signal=float(fired))

    before = signal.signal(signal.SIGALRM, handler)
    with capture() as sent:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            for number in range(60_000):
                sdk.log(loss=float(number))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert [value for _, value in sent.scalar("loss")] == [float(n) for n in range(60_000)]
    assert sorted(value for _, value in sent.scalar("signal")) == [float(n) for n in range(1, fired + 1)]
    assert fired > 10


def test_a_signal_handler_that_logs_new_names_while_others_are_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name keeps its own values, also when the handler runs between the number of a layout and its use."""
    line = Shape.line

    def interrupted(shape: Shape) -> bytes:
        signal.raise_signal(signal.SIGALRM)
        return line(shape)

    def handler(_number: int, _frame: object) -> None:
        monkeypatch.undo()
        sdk.log(preempted=7.0)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with capture() as sent:
            monkeypatch.setattr(Shape, "line", interrupted)
            sdk.log(loss=1.0)
            sdk.log(loss=2.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [value for _, value in sent.scalar("loss")] == [1.0, 2.0]
    assert [value for _, value in sent.scalar("preempted")] == [7.0]


@pytest.mark.parametrize("disk", ["ext4", "nfs4"])
def test_an_interrupt_in_the_middle_of_log_loses_nothing_that_returned(
    disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind(_path: Path) -> str:
        return disk

    monkeypatch.setattr(_spool, "file_system", kind)

    class Interrupt(BaseException):
        pass

    logging_now = False

    def handler(_number: int, _frame: object) -> None:
        nonlocal logging_now
        if logging_now:
            logging_now = False
            raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    returned: list[float] = []
    with capture() as sent:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            for number in range(40_000):
                with contextlib.suppress(Interrupt):
                    logging_now = True
                    sdk.log(loss=float(number))
                    logging_now = False
                    returned.append(float(number))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    values = [value for _, value in sent.scalar("loss")]
    assert len(set(values)) == len(values)
    assert not set(returned) - set(values)


def test_events() -> None:
    with capture() as sent:
        sdk.log(loss=1.0, step=4)
        sdk.text("note", "héllo \ud800")
        sdk.alert("title", "text", severity="critical")
        sdk.expect(120)
    kinds = [(event.kind, event.step) for event in sent.events]
    assert kinds == [("text", 4), ("alert", 4), ("expect", 4), ("goodbye", 4)]
    assert sent.texts("note") == ["héllo ?"]
    assert sent.events[1].fields == {"title": "title", "text": "text", "severity": "critical"}
    assert sent.events[2].fields == {"seconds": 120.0}


def test_something_large_travels_in_pieces() -> None:
    from rankscope.sdk import _session

    data = bytes(range(256)) * 4096  # 1 MiB
    with capture() as sent:
        _session.media("image", "sample", data, {"height": 2}, 7)
        _session.media("table", "empty", b"", {})
    pieces = [event for event in sent.events if event.kind == "media"]
    assert b"".join(piece.data for piece in pieces[:-1]) == data
    assert [piece.fields["last"] for piece in pieces] == [False, False, False, True, True]
    assert pieces[0].fields["metadata"] == {"height": 2}
    assert all(len(piece.data) <= 256 * 1024 for piece in pieces)
    assert {piece.fields["id"] for piece in pieces} == {1, 2}


def test_without_a_session_nothing_happens() -> None:
    sdk.log(loss=1.0)
    sdk.text("a", "b")
    with sdk.phase("x"):
        pass
    assert list(sdk.batches([1, 2])) == [1, 2]
    sdk.finish()


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), np.float32("nan"), torch.tensor(float("inf"))])
def test_what_is_urgent_hurries_the_sender(value: object) -> None:
    with capture():
        session = _session.current
        assert session is not None
        calls: list[int] = []
        session.hurry = lambda: calls.append(session.journal.sequence)
        for step in range(100):
            sdk.log(loss=1.0, lr=1e-3, big=1e308, accuracy=np.float32(0.5))
            assert not calls, f"step {step}"
        sdk.log(loss=value, lr=1e-3)
        assert calls == [session.journal.sequence], "once, when the row is written"
        sdk.alert("look", "at this")
        assert calls[1:] == [session.journal.sequence], "so does an alert of the user's own"
