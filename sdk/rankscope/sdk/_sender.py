"""The sender: a process beside each rank that drains its journal, and speaks for it when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from rankscope.sdk import _spool as spool
from rankscope.sdk._delivery import STUCK, SURROUNDINGS, deliver_left_behind, last_word, read_hello, remove
from rankscope.sdk._hello import surroundings
from rankscope.sdk._live import Glance
from rankscope.sdk._reader import Reader
from rankscope.sdk._stacks import Unknown, ask
from rankscope.sdk._stream import Delivery
from rankscope.v1 import ingest_pb2

UNHEARD = 5.0  # seconds without an agent after which that is said
LAST_TRY = 0.5  # seconds for an agent that is not there when the rank ends
DELIVERED, LEFT = b"d", b"l"  # what the rank hears at the end: all is safe, or the rest waits on disk


class Sender:
    """Delivers the journal of the process that started it."""

    def __init__(self, order: Mapping[str, str]) -> None:
        self.folder = Path(order["folder"])
        self.address = order["agent"]
        self.parent = int(order["parent"])
        self.token = os.environ.get("RANKSCOPE_TOKEN", "")
        self.talks = order["talks"] == "yes"
        self.delivery: Delivery | None = None
        self.ended_at = 0.0
        self._told: set[str] = set()
        self._writer: int | None = None
        self._others: asyncio.Future[None] | None = None
        self._end_noticed = False
        self._said = True  # the journal ends with a goodbye

    async def run(self) -> bool:
        """Deliver until the rank has ended and all is safe, or the rest has to wait."""
        hello, _ = read_hello(self.folder)
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self._heard)
        reader = Reader(self.folder)
        reader.eager = False
        self.delivery = Delivery(
            self.address,
            self.token,
            hello,
            reader,
            Glance(self.folder),
            self._stop,
            self._welcomed,
            self._refused,
            lambda: time.time_ns() - time.monotonic_ns(),
            self._stacks,
        )
        loop.call_later(UNHEARD, self._nobody)
        done = await self.delivery.run()
        if done and not self._said:
            done = last_word(self.delivery, self.folder) and await self.delivery.run()
        if self._others is not None:
            self._others.cancel()
        return done

    def _heard(self) -> None:
        """The rank wakes us, or its end of the pipe is closed: it has finished, or is gone."""
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            self._end_noticed = True
        if self.delivery is not None:
            self.delivery.wake()

    async def _stacks(self) -> str:
        if self._end_noticed or os.getppid() != self.parent:
            raise Unknown("the rank has ended")
        return await ask(self.folder, self.parent)

    def _stop(self) -> bool:
        if not self.ended_at and (self._end_noticed or os.getppid() != self.parent):
            self._ended()
        delivery = self.delivery
        if not self.ended_at or delivery is None:
            return False
        since = time.monotonic() - max(self.ended_at, delivery.progress)
        return since > (STUCK if delivery.connected else LAST_TRY)

    def _ended(self) -> None:
        """The rank is through with its journal: complete it, and let go of the rank's stderr."""
        with contextlib.suppress(FileNotFoundError):  # somebody removed the journal
            self._writer = spool.lock(self.folder / spool.WRITER)
            if self._writer is None:
                return  # someone closed the pipe, but the rank still writes
        self.ended_at = time.monotonic()
        if self.delivery is not None:
            self.delivery.reader.eager = True
            self._said = last_word(self.delivery, self.folder)
        self.talks = False
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)
        os.close(null)

    def _welcomed(self, welcome: ingest_pb2.Welcome) -> None:
        if "run" not in self._told:
            self._told.add("run")
            if self.talks:
                say(f"run {welcome.run}" + (f" · {welcome.url}" if welcome.url else ""))
            stop = lambda: bool(self.ended_at)  # noqa: E731
            self._others = asyncio.ensure_future(deliver_left_behind(self.folder, self.address, self.token, stop))

    def _nobody(self) -> None:
        """Say that no agent is there: that is nothing wrong, but a wrong address looks the same."""
        if self.talks and not self._told and self.delivery is not None and not self.delivery.connected:
            self._told.add("nobody")
            say(f"no agent answers at {self.address}: points wait in {self.folder}")

    def _refused(self, why: str) -> None:
        if why not in self._told and len(self._told) < 10:
            self._told.add(why)
            if self.talks:
                say(f"the agent at {self.address} refuses this run: {why}; points wait in {self.folder}")


def main(order: Mapping[str, str]) -> None:
    """Run the sender, and leave without the interpreter's long goodbye."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.getLogger().addHandler(logging.NullHandler())
    logging.raiseExceptions = False
    with contextlib.suppress(OSError):
        os.nice(5)
    folder = Path(order["folder"])
    try:
        lock = spool.lock(folder / spool.SENDER)
    except FileNotFoundError:  # the rank is gone already, and someone else has delivered what it left
        lock = None
    if lock is None:
        os._exit(1)
    with contextlib.suppress(OSError):
        found = surroundings(json.loads(order["path"]), order["directory"])
        (folder / SURROUNDINGS).write_text(json.dumps(found))
    sender = Sender(order)
    done = False
    try:
        done = asyncio.run(sender.run())
    except Exception as error:  # noqa: BLE001 (the SDK's guard: no traceback among the training's output)
        if order["talks"] == "yes":
            say(f"cannot send what waits in {folder}: {type(error).__name__}: {error}")
    if done:
        remove(folder)
    with contextlib.suppress(OSError):
        os.write(1, DELIVERED if done else LEFT)
    os._exit(0)


def say(text: str) -> None:
    """Write one line for people to stderr, if there still is one."""
    with contextlib.suppress(OSError, ValueError):
        os.write(2, f"rankscope: {text}\n".encode("utf-8", "replace"))
