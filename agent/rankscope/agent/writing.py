"""The one thread that writes the record: what was taken becomes safe, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol
from weakref import WeakSet

from rankscope.agent.component import Exporter, Unsafe
from rankscope.agent.model import Batch, Goodbye, RankInfo

log = logging.getLogger("rankscope.ingest")

COMMIT_EVERY = 2.0  # seconds: what an acknowledgement waits for at most
COMMIT_AT = 10_000  # records not yet safe, over all ranks: a backlog waits for no clock


class Written(Protocol):
    """The session whose batches are written; its methods are called in its own event loop."""

    rank: RankInfo
    loop: asyncio.AbstractEventLoop

    def set_safe(self, sequence: int) -> None: ...

    def lost(self, batch: Batch, error: Exception) -> None: ...


class Writer:
    """The one thread that calls the record: what was taken becomes safe, in order."""

    def __init__(self, record: Exporter, failed: Callable[[str], None]) -> None:
        self._record = record
        self._failed = failed
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._dirty: dict[Written, int] = {}
        self._broken: WeakSet[Written] = WeakSet()  # of which the record refused something
        self._seen: set[type[Exception]] = set()
        self._urgent = False
        self._trouble = ""  # why the last commit failed
        self._unsafe = 0  # records since the last commit
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def write(self, session: Written, batch: Batch) -> None:
        self._jobs.put(partial(self._write, session, batch))

    async def begin(self, rank: RankInfo) -> int:
        """Return the last safe sequence number of a session. Raises OSError."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()

        def job() -> None:
            try:
                if self._dirty:  # what an earlier stream of this session sent must be safe first
                    with contextlib.suppress(Unsafe):  # of others: where it is this rank, the record does not begin
                        self._commit()
                safe = self._record.begin(rank)
            except OSError as error:
                loop.call_soon_threadsafe(_fail, done, error)
            except Exception as error:  # noqa: BLE001 (the worker of the record: what it is, the rank hears)
                self._say(error, rank)
                loop.call_soon_threadsafe(_fail, done, OSError(f"{type(error).__name__}: {error}"))
            else:
                loop.call_soon_threadsafe(_resolve, done, safe)

        self._jobs.put(job)
        return await done

    async def close(self, deadline: float) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, deadline)

    def _write(self, session: Written, batch: Batch) -> None:
        if session in self._broken:
            return
        try:
            self._record.write(session.rank, batch)
        except Exception as error:  # noqa: BLE001 (likewise)
            # Nothing of this session counts as safe beyond what is: the rank sends it again, in another stream.
            self._say(error, session.rank)
            self._broken.add(session)
            session.loop.call_soon_threadsafe(session.lost, batch, error)
            return
        self._dirty[session] = batch.last
        self._unsafe += batch.last - batch.first + 1
        goodbye = any(isinstance(event, Goodbye) for event in batch.events)
        self._urgent = self._urgent or goodbye or self._unsafe >= COMMIT_AT

    def _say(self, error: Exception, rank: RankInfo) -> None:
        if type(error) not in self._seen:
            self._seen.add(type(error))
            log.error("the record refused points of rank %d of %s", rank.key.rank, rank.key.run, exc_info=error)

    def _commit(self) -> None:
        """Acknowledge what is safe. Raises OSError where something is not."""
        failed: Unsafe | None = None
        try:
            self._record.commit()
        except Unsafe as error:
            failed = error
        dirty, self._dirty, self._urgent, self._unsafe = self._dirty, {}, False, 0
        for session, last in dirty.items():
            if failed is not None and session.rank.key in failed.ranks:
                self._dirty[session] = last
            else:
                session.loop.call_soon_threadsafe(session.set_safe, last)
        if failed is not None:
            raise failed

    def _complain(self, error: Exception) -> None:
        """Say why a commit failed, unless the last one did for the same reason."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            if not isinstance(error, OSError):
                log.error("cannot write the record", exc_info=error)
            self._failed(f"cannot write the record: {error}")

    def _run(self) -> None:
        due = time.monotonic() + COMMIT_EVERY
        closing = False
        while not closing:
            try:
                job = self._jobs.get(timeout=max(0.0, due - time.monotonic()))
                while True:
                    if job is None:
                        closing = True
                        break
                    job()
                    job = self._jobs.get_nowait()
            except queue.Empty:
                pass
            if self._dirty and (closing or self._urgent or time.monotonic() >= due):
                try:
                    self._commit()
                except Exception as error:  # noqa: BLE001 (likewise: the next commit tries again)
                    self._urgent = False
                    self._complain(error)
                else:
                    if self._trouble:
                        log.info("the record can be written again")
                    self._trouble = ""
            if time.monotonic() >= due:
                due = time.monotonic() + COMMIT_EVERY
        try:
            self._record.close()
        except OSError as error:
            self._failed(f"cannot close the record: {error}")


def _resolve(future: asyncio.Future[int], value: int) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[int], error: OSError) -> None:
    if not future.done():
        future.set_exception(error)
