"""Numbers that are still on a device: no waiting, the right step, in any order of arrival."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from rankscope import sdk
from rankscope.sdk import _values
from rankscope.sdk.testing import Point, capture


class Stream:
    """What a device's stream does, played by hand: work is done when the test says so."""

    def __init__(self) -> None:
        self.work: list[Event] = []

    def done(self, most: int = 1000) -> None:
        for event in self.work[:most]:
            event.reached = True
        del self.work[:most]


class Event:
    def __init__(self) -> None:
        self.reached = False

    def record(self, stream: Stream) -> None:
        stream.work.append(self)

    def query(self) -> bool:
        return self.reached


class OnDevice(torch.Tensor):
    """A tensor that says that it lives on the device `played`; reading it directly would be a synchronisation."""

    @property
    def device(self) -> Any:  # type: ignore[override]
        return types.SimpleNamespace(type="played")

    def item(self) -> Any:
        raise AssertionError("waited for the device")

    __float__ = item

    def detach(self) -> Any:
        return self.as_subclass(torch.Tensor)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """A device called `played` with the interface that torch.cuda, torch.xpu and torch.npu share."""
    found = Stream()
    device = types.SimpleNamespace(Event=Event, current_stream=lambda _device: found)
    monkeypatch.setattr(torch, "played", device, raising=False)
    empty = torch.empty

    def pinned(*size: Any, pin_memory: bool = False, **rest: Any) -> torch.Tensor:
        return empty(*size, **rest)

    monkeypatch.setattr(torch, "empty", pinned)
    return found


def tensor(value: float) -> OnDevice:
    return torch.tensor(value).as_subclass(OnDevice)


def test_a_value_arrives_when_it_is_ready_at_the_step_where_it_was_logged(stream: Stream) -> None:
    with capture() as sent:
        for step in range(5):
            sdk.log(loss=tensor(float(step)), lr=0.5)
        assert sent.scalar("loss") == []
        assert len(sent.scalar("lr")) == 5
        stream.done(3)
        sdk.log(lr=0.5)
        assert sent.scalar("loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
        stream.done()
    assert sent.scalars["loss"] == [Point(step, float(step), True) for step in range(5)]
    assert sent.scalar("lr") == [(step, 0.5) for step in range(6)]
    assert sent.dropped == {}


def test_a_value_that_never_comes_does_not_hold_up_the_end_and_is_counted(stream: Stream) -> None:
    with capture() as sent:
        sdk.log(a=tensor(1.0), b=tensor(2.0))
    assert sent.dropped == {"late_lost": 2}


def test_more_than_fits_is_dropped_oldest_first_and_counted(stream: Stream) -> None:
    with capture() as sent:
        for step in range(5000):
            sdk.log(loss=tensor(float(step)))
        stream.done(10_000)
    assert sent.dropped == {"late_lost": 5000 - 4096}
    assert [step for step, _ in sent.scalar("loss")] == list(range(904, 5000))


def test_a_device_without_events_is_said_and_not_waited_for(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "played", types.SimpleNamespace(), raising=False)
    with capture() as sent:
        sdk.log(loss=tensor(1.0), lr=0.5)
        assert sent.scalar("lr") == [(0, 0.5)]
    assert sent.dropped == {"late_lost": 1}


def test_a_device_that_fails_takes_its_own_values_along_and_nothing_else(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Event, *_: object) -> bool:
        raise RuntimeError("device-side assert triggered")

    with capture() as sent:
        sdk.log(loss=tensor(1.0), lr=0.5)
        monkeypatch.setattr(Event, "query", fail)
        sdk.log(loss=tensor(2.0), lr=0.25)
        monkeypatch.setattr(Event, "record", fail)
        sdk.log(loss=tensor(3.0), lr=0.125)
    assert sent.scalar("lr") == [(0, 0.5), (1, 0.25), (2, 0.125)]
    assert sent.dropped == {"late_lost": 3}
    assert [event.kind for event in sent.events] == ["goodbye"]


def test_several_elements_are_no_number(stream: Stream) -> None:
    with capture() as sent:
        sdk.log(loss=torch.zeros(3).as_subclass(OnDevice))
    assert sum(sent.dropped.values()) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_real_device_nothing_synchronises() -> None:
    values = torch.rand(200, device="cuda")
    losses = [values[n] for n in range(200)]
    with capture() as sent:
        torch.cuda.set_sync_debug_mode("error")
        try:
            for loss in losses:
                sdk.log(loss=loss, half=loss.to(torch.bfloat16))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [value for _, value in sent.scalar("loss")] == [float(loss) for loss in losses]


def test_torch_is_never_imported_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    assert not _values.is_tensor(object())
