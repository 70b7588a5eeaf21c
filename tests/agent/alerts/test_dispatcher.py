"""Each receiver has a lane of its own: retries, order, and nobody waits for anybody else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from rankscope.agent.alerts.dispatcher import Dispatcher
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Notification, Refused, Retry
from rankscope.agent.fakes import a_notification
from rankscope.agent.model import Severity

FAST = Settings(retry_first=0.01, retry_longest=0.05)


@dataclass
class Script:
    """A notifier that does as it is told, one word a delivery: ok, retry, refuse, odd, hang."""

    words: list[str] = field(default_factory=list[str])
    min_severity: Severity = "info"
    send_resolved: bool = True
    after: float | None = None
    repeat_every: float = 0.0
    got: list[Notification] = field(default_factory=list[Notification])
    tries: list[float] = field(default_factory=list[float])
    closed: int = 0

    async def send(self, notification: Notification) -> None:
        self.tries.append(time.monotonic())
        word = self.words.pop(0) if self.words else "ok"
        if word == "retry":
            raise Retry("busy", self.after)
        if word == "refuse":
            raise Refused("never")
        if word == "odd":
            raise KeyError("https://secret.example/T0KEN")
        if word == "hang":
            await asyncio.sleep(3600)
        self.got.append(notification)

    async def close(self) -> None:
        self.closed += 1


class Running:
    """A dispatcher at work."""

    def __init__(self, folder: Path | None, settings: Settings, **notifiers: Script) -> None:
        self.dispatcher = Dispatcher(folder, settings)
        self.dispatcher.use(dict(notifiers))

    async def __aenter__(self) -> Dispatcher:
        self.task = asyncio.create_task(self.dispatcher.run())
        return self.dispatcher

    async def __aexit__(self, *error: object) -> None:
        await self.dispatcher.close(0.2)
        await self.task


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.002)


def counts(dispatcher: Dispatcher, receiver: str = "a") -> dict[str, float]:
    return {
        s.labels[1] if len(s.labels) > 1 else "waiting": cast(float, s.value)
        for s in dispatcher.samples()
        if s.labels[0] == receiver
    }


def queues(folder: Path) -> list[str]:
    return [path.stem for path in folder.iterdir()]


async def test_delivered_and_counted() -> None:
    script = Script()
    async with Running(None, FAST, a=script) as dispatcher:
        assert counts(dispatcher) == {"ok": 0, "failed": 0, "dropped": 0, "waiting": 0}
        dispatcher.put(a_notification())
        await until(lambda: bool(script.got))
        assert counts(dispatcher) == {"ok": 1, "failed": 0, "dropped": 0, "waiting": 0}
    assert script.got[0].payload["receiver"] == "a"
    assert script.closed == 1


async def test_retried_until_it_succeeds_and_order_is_kept() -> None:
    script = Script(["retry"] * 5)
    sent = [a_notification(name) for name in "ABC"]
    async with Running(None, FAST, a=script) as dispatcher:
        for notification in sent:
            dispatcher.put(notification)
        await until(lambda: len(script.got) == 3)
    assert [n.id for n in script.got] == [n.id for n in sent]
    assert len(script.tries) == 8


async def test_refused_is_given_up_and_the_next_one_goes() -> None:
    script = Script(["refuse"])
    async with Running(None, FAST, a=script) as dispatcher:
        dispatcher.put(a_notification("A"))
        dispatcher.put(a_notification("B"))
        await until(lambda: len(script.got) == 1)
        assert counts(dispatcher) == {"ok": 1, "failed": 1, "dropped": 0, "waiting": 0}


async def test_pauses_grow_and_what_the_receiver_asks_for_is_heeded() -> None:
    script = Script(["retry"] * 4)
    async with Running(None, Settings(retry_first=0.04, retry_longest=10), a=script) as dispatcher:
        dispatcher.put(a_notification())
        await until(lambda: len(script.got) == 1)
    pauses = [b - a for a, b in zip(script.tries, script.tries[1:], strict=False)]
    for i, pause in enumerate(pauses):
        assert pause >= 0.04 * 2**i * 0.5
    script = Script(["retry"], after=0.3)
    async with Running(None, FAST, a=script) as dispatcher:
        dispatcher.put(a_notification())
        await until(lambda: len(script.got) == 1)
    assert script.tries[1] - script.tries[0] >= 0.3


async def test_a_receiver_that_hangs_delays_no_other() -> None:
    dead, well = Script(["hang"]), Script()
    async with Running(None, FAST, a=dead, b=well) as dispatcher:
        for name in "ABC":
            dispatcher.put(a_notification(name))
        await until(lambda: len(well.got) == 3)
        assert dead.got == []
        assert counts(dispatcher)["waiting"] == 3


async def test_a_delivery_that_hangs_is_cut_off_and_tried_again() -> None:
    script = Script(["hang"])
    settings = Settings(retry_first=0.01, send_timeout=0.05)
    async with Running(None, settings, a=script) as dispatcher:
        dispatcher.put(a_notification())
        await until(lambda: len(script.got) == 1)


async def test_an_error_that_no_notifier_should_raise_is_given_up_after_three_tries_and_tells_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script(["odd"] * 3)
    with caplog.at_level(logging.DEBUG):
        async with Running(None, FAST, a=script) as dispatcher:
            dispatcher.put(a_notification("A"))
            dispatcher.put(a_notification("B"))
            await until(lambda: len(script.got) == 1)
            assert counts(dispatcher)["failed"] == 1
    assert "KeyError" in caplog.text
    assert "T0KEN" not in caplog.text


async def test_a_dead_receiver_is_said_once_and_its_recovery_too(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(["retry"] * 20)
    with caplog.at_level(logging.INFO, "rankscope.agent.alerts.lane"):
        async with Running(None, FAST, a=script) as dispatcher:
            dispatcher.put(a_notification())
            await until(lambda: len(script.got) == 1)
    lines = [record.message for record in caplog.records if record.name.endswith(".lane")]
    assert len(lines) == 2
    assert lines[0] == "a: busy; 1 waiting, tries again until it succeeds"
    assert "delivers again" in lines[1]


async def test_severity_and_resolved_are_filtered_for_each_receiver() -> None:
    grave, firing = Script(min_severity="critical"), Script(send_resolved=False)
    async with Running(None, FAST, a=grave, b=firing, c=(rest := Script())) as dispatcher:
        dispatcher.put(a_notification())
        dispatcher.put(a_notification(resolved=True))
        await until(lambda: len(rest.got) == 2)
        await until(lambda: len(grave.got) == 2)
        assert len(firing.got) == 1
        mild = a_notification("Mild")
        for alert in cast("list[dict[str, dict[str, str]]]", mild.payload["alerts"]):
            alert["labels"]["severity"] = "warning"
        dispatcher.put(mild)
        await until(lambda: len(rest.got) == 3)
    assert len(grave.got) == 2


async def test_what_is_too_old_is_dropped_and_counted(tmp_path: Path) -> None:
    first = Dispatcher(tmp_path, FAST, lambda: time.time() - 25 * 3600)
    first.use({"a": Script()})
    first.put(a_notification())
    script = Script()
    async with Running(tmp_path, FAST, a=script) as dispatcher:
        await until(lambda: counts(dispatcher)["dropped"] == 1)
    assert script.got == []


async def test_a_clock_that_is_set_makes_nothing_old(tmp_path: Path) -> None:
    """Nor after a restart: what waits is kept with the time by the new clock."""
    moved = 0.0
    first = Dispatcher(tmp_path, FAST, lambda: time.time() + moved)
    first.use({"a": Script()})
    first.put(a_notification())
    moved = 25 * 3600
    first.shift(moved)
    dispatcher = Dispatcher(tmp_path, FAST, lambda: time.time() + moved)
    dispatcher.use({"a": (script := Script())})
    task = asyncio.create_task(dispatcher.run())
    await until(lambda: len(script.got) == 1)
    assert counts(dispatcher)["dropped"] == 0
    await dispatcher.close(0.2)
    await task


async def test_a_full_queue_drops_the_oldest_and_counts() -> None:
    script = Script(["hang"])
    async with Running(None, Settings(queue=2, retry_first=0.01), a=script) as dispatcher:
        for i in range(10):
            dispatcher.put(a_notification(f"N{i}"))
            await asyncio.sleep(0)
        assert counts(dispatcher)["dropped"] == 8


async def test_reloading_keeps_the_queue_and_tries_at_once_with_the_new_settings(tmp_path: Path) -> None:
    wrong, right = Script(["retry"] * 1000), Script()
    async with Running(tmp_path, Settings(retry_first=60, retry_longest=600), a=wrong) as dispatcher:
        dispatcher.put(a_notification())
        await until(lambda: len(wrong.tries) == 1)
        dispatcher.use({"a": right})
        await until(lambda: len(right.got) == 1)
        await until(lambda: wrong.closed == 1)


async def test_a_receiver_that_is_no_longer_configured_leaves_no_queue_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Script(["retry"] * 1000)
    async with Running(tmp_path, FAST, a=gone, b=Script()) as dispatcher:
        dispatcher.put(a_notification())
        dispatcher.use({"b": Script()})
    assert queues(tmp_path) == ["b"]
    assert "a is no longer configured: 1 notifications are dropped" in caplog.text
    other = Dispatcher(tmp_path, FAST)
    other.use({})
    assert queues(tmp_path) == []


async def test_what_fires_is_repeated_to_those_who_expect_it_but_never_queued() -> None:
    script = Script(repeat_every=0.05)
    running = Running(None, FAST, a=script, b=(plain := Script()))
    running.dispatcher.announced = lambda now: a_notification()
    async with running as dispatcher:
        await until(lambda: len(script.got) >= 3)
        assert counts(dispatcher)["ok"] == 0
    assert plain.got == []


async def test_closing_tries_once_more_and_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    script, dead = Script(["retry"]), Script(["hang", "hang"])
    dispatcher = Dispatcher(tmp_path, Settings(retry_first=60, retry_longest=600))
    dispatcher.use({"a": script, "b": dead})
    task = asyncio.create_task(dispatcher.run())
    dispatcher.put(a_notification())
    await until(lambda: len(script.tries) == 1 and len(dead.tries) == 1)
    begin = time.monotonic()
    await dispatcher.close(0.2)
    await task
    assert time.monotonic() - begin < 2
    assert len(script.got) == 1
    again = Script()
    async with Running(tmp_path, FAST, a=Script(), b=again):
        await until(lambda: len(again.got) == 1)
