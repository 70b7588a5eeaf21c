"""Hands notifications to receivers: one lane each, so that a slow or dead one delays no other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rankscope.agent.alerts.lane import Announced, Lane
from rankscope.agent.alerts.metrics import NOTIFICATIONS_TOTAL, NOTIFICATIONS_WAITING
from rankscope.agent.alerts.outbox import Outbox
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Notification, Notifier
from rankscope.agent.model import Sample
from rankscope.agent.runs.naming import safe_name

log = logging.getLogger(__name__)


class Dispatcher:
    """Queues every notification for every receiver that wants it, and delivers.

    `folder`: where the queues are kept (None: in memory). `announced` returns what receivers that expect repetition
    are told again and again. `clock` says what time it is (Unix seconds).
    """

    def __init__(self, folder: Path | None, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.announced: Announced = lambda now: None
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._lanes: dict[str, Lane] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def use(self, notifiers: Mapping[str, Notifier]) -> None:
        """Deliver to these receivers from now on; queues of the others are given up, and said so."""
        for name in [name for name in self._lanes if name not in notifiers]:
            self._give_up(self._lanes.pop(name))
        for name, notifier in notifiers.items():
            if (lane := self._lanes.get(name)) is not None:
                self._retire(lane.replace(notifier))
                continue
            outbox = Outbox(self._file(name), self._settings.queue)
            self._lanes[name] = Lane(name, notifier, outbox, self._settings, self._repeat, self._clock)
        self._clean()
        if self._loop is not None:
            self._start()

    def put(self, notification: Notification) -> None:
        """Queue a notification; it is on disk when this returns. To be called where `run` runs."""
        now = self._clock()
        for lane in self._lanes.values():
            if lane.put(notification, now):
                lane.wake()

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds."""
        for lane in self._lanes.values():
            lane.outbox.shift(seconds)

    async def run(self) -> None:
        """Deliver until `close`."""
        self._loop = asyncio.get_running_loop()
        self._start()
        try:
            await self._stop.wait()
        finally:
            for task in (*self._tasks.values(), *self._closing):
                task.cancel()

    async def close(self, seconds: float) -> None:
        """Deliver for at most this long what can be delivered now; the rest stays on disk."""
        for lane in self._lanes.values():
            lane.finish()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for lane in self._lanes.values():
            lane.outbox.close()
            await lane.notifier.close()
        self._stop.set()

    def samples(self) -> Iterator[Sample]:
        """Yield what became of notifications, by receiver."""
        for name, lane in self._lanes.items():
            for outcome, count in lane.counts.items():
                yield Sample(NOTIFICATIONS_TOTAL, float(count), (name, outcome))
            yield Sample(NOTIFICATIONS_WAITING, float(len(lane.outbox)), (name,))

    def _start(self) -> None:
        for name, lane in self._lanes.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.get_running_loop().create_task(lane.work(), name=f"notify {name}")

    def _give_up(self, lane: Lane) -> None:
        if (task := self._tasks.pop(lane.name, None)) is not None:
            task.cancel()
        if len(lane.outbox):
            log.warning("%s is no longer configured: %d notifications are dropped", lane.name, len(lane.outbox))
        lane.outbox.remove()
        self._retire(lane.notifier)

    def _repeat(self, now: float) -> Notification | None:
        return self.announced(now)

    def _retire(self, notifier: Notifier) -> None:
        """Close a notifier that is no longer used; one that never ran has nothing to close."""
        if self._loop is not None:
            task = self._loop.create_task(_close(notifier))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _file(self, name: str) -> Path | None:
        return self._folder / f"{safe_name(name, 'receiver')}.jsonl" if self._folder is not None else None

    def _clean(self) -> None:
        """Remove queues that an earlier configuration left behind."""
        if self._folder is None or not self._folder.is_dir():
            return
        known = {self._file(name) for name in self._lanes}
        for path in self._folder.glob("*.jsonl"):
            if path not in known:
                left = Outbox(path)
                if len(left):
                    log.warning("%s is no longer configured: %d notifications are dropped", path.stem, len(left))
                left.remove()


async def _close(notifier: Notifier) -> None:
    await notifier.close()
