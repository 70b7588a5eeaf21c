"""What the sender of a living rank and the deliverer of a dead one share: a journal's folder, from hello to removal."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from google.protobuf import json_format

from rankscope.sdk import _records as records
from rankscope.sdk import _spool as spool
from rankscope.sdk._ends import SIGNALLED, read_signal
from rankscope.sdk._identity import boot, start_ticks
from rankscope.sdk._live import Glance, read_end
from rankscope.sdk._reader import Reader, survey
from rankscope.sdk._stream import PROTOCOL, Delivery
from rankscope.v1 import ingest_pb2

SURROUNDINGS = "environment.json"
PATIENCE = 2.0  # seconds without an agent after which a journal of a dead rank is left for later
FORGOTTEN = 3600.0  # seconds after which a folder that is no journal will not become one any more
STUCK = 10.0  # the same, without progress while the agent is there


def read_hello(folder: Path) -> tuple[ingest_pb2.Hello, Mapping[str, object]]:
    """Return the hello of a journal, and its fields as written. Raises OSError or ValueError."""
    fields = _valid(json.loads((folder / spool.HELLO).read_text()))
    if not isinstance(fields, dict):
        raise ValueError(f"{folder / spool.HELLO} is no JSON object")
    table = cast("dict[str, object]", fields)
    environment = dict(cast("dict[str, str]", table.get("environment") or {}))
    with contextlib.suppress(OSError, ValueError):
        environment.update(cast("dict[str, str]", _valid(json.loads((folder / SURROUNDINGS).read_text()))))
    known = {name: value for name, value in table.items() if name in ingest_pb2.Hello.DESCRIPTOR.fields_by_name}
    hello = ingest_pb2.Hello()
    try:
        json_format.ParseDict({**known, "environment": environment}, hello)
    except json_format.ParseError as error:
        raise ValueError(f"{folder / spool.HELLO}: {error}") from None
    hello.protocol = PROTOCOL
    hello.sdk_version = hello.sdk_version or _version()
    return hello, table


def _valid(value: object) -> object:
    """Return JSON whose texts can travel: half a surrogate pair, as from a path of odd bytes, is a question mark."""
    found: object = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return found


def _version() -> str:
    try:
        return importlib.metadata.version("rankscope")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def complete(folder: Path) -> int:
    """Return the last sequence number of a journal whose owner is gone; what it did not say itself is said for it."""
    last, said, at = survey(folder)
    if said:
        return last
    fields: dict[str, object] = read_end(folder) or {"reason": "vanished"}
    trace = read_signal(folder / SIGNALLED)
    if trace and fields.get("reason") == "vanished":
        fields = {"reason": "signal", "signal": 15, "traceback": trace, "exit_code": -15}
    now = time.monotonic_ns()
    head = records.SEGMENT.pack(records.MAGIC, last + 1, time.time_ns() - now)
    path = folder / spool.segment_name(last + 1)
    draft = path.with_suffix(".tmp")
    draft.write_bytes(head + records.event("goodbye", _last_step(folder), now if at <= now else at, fields))
    os.replace(draft, path)
    return last + 1


def last_word(delivery: Delivery, folder: Path) -> bool:
    """Let a delivery end with the goodbye of a rank that is gone.

    False when the disk is too full to add one: then what is there is delivered first, which makes room.
    """
    if not folder.exists():  # somebody removed it: what is open is all there is
        delivery.final, _ = delivery.reader.left()
        return True
    delivery.final, said, _ = survey(folder)
    if said:
        return True
    try:
        delivery.final = complete(folder)
    except OSError:
        return False
    delivery.reader.seek(delivery.reader.next)  # the segment that it has open may have been replaced
    return True


def _last_step(folder: Path) -> int:
    step = 0
    for _, path in reversed(spool.segments(folder)):
        for _, found in records.records(path.read_bytes()[records.SEGMENT.size :]):
            step = found.step if isinstance(found, records.Event) else found.steps[-1]
        if step:
            break
    return step


class Dead:
    """Delivers the journal of a rank that is gone, as far as the agent takes it."""

    def __init__(self, folder: Path, address: str, token: str, stop: Callable[[], bool] = lambda: False) -> None:
        self.folder, self.address, self.token, self._outer = folder, address, token, stop
        self._delivery: Delivery | None = None

    async def run(self) -> bool:
        """Deliver and remove the journal; False when it is not free, or not all could be delivered. Raises OSError."""
        # The rank's lock first: a sender that starts just now must never find its own lock held because of a rank that
        # lives, for it would leave.
        writer = spool.lock(self.folder / spool.WRITER)
        if writer is None:
            return False
        try:
            return await self._run()
        finally:
            os.close(writer)

    async def _run(self) -> bool:
        lock = spool.lock(self.folder / spool.SENDER, make=True)  # an SDK before this one did not
        if lock is None:
            return False
        try:
            hello, fields = read_hello(self.folder)
            if owner_lives(fields):
                return False
            with contextlib.closing(Reader(self.folder)) as reader, contextlib.closing(Glance(self.folder)) as glance:
                delivery = self._delivery = Delivery(self.address, self.token, hello, reader, glance, self._stop)
                said = last_word(delivery, self.folder)
                done = await delivery.run()
                if done and not said:
                    done = last_word(delivery, self.folder) and await delivery.run()
            if not done:
                return False
            remove(self.folder)
            return True
        finally:
            os.close(lock)

    def _stop(self) -> bool:
        delivery = self._delivery
        idle = time.monotonic() - delivery.progress if delivery is not None else 0.0
        return self._outer() or idle > (STUCK if delivery is not None and delivery.connected else PATIENCE)


def owner_lives(fields: Mapping[str, object]) -> bool:
    """True when the very process that began the journal runs, whatever its locks say."""
    pid, ticks = fields.get("pid"), fields.get("pid_start_ticks")
    return bool(fields.get("boot") == boot() and isinstance(pid, int) and ticks and start_ticks(pid) == ticks)


def remove(folder: Path) -> None:
    """Remove a journal that is safe: what names it goes first, so that half a removal is no journal."""
    with contextlib.suppress(OSError):
        (folder / spool.HELLO).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def clear(place: Path) -> None:
    """Remove what is left of journals whose removal, or first moment, was cut short: nobody would ever look at it."""
    with contextlib.suppress(OSError):
        for folder in [Path(entry) for entry in os.scandir(place)]:
            with contextlib.suppress(OSError):
                old = time.time() - folder.lstat().st_mtime > FORGOTTEN
                if not (old and spool.is_remnant(folder)):
                    continue
                if (lock := spool.lock(folder / spool.WRITER, make=True)) is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    os.close(lock)


async def deliver_left_behind(own: Path, address: str, token: str, stop: Callable[[], bool]) -> None:
    """Deliver the journals beside one's own whose owner and sender are both gone, one after the other."""
    for journal in spool.journals(own.parent):
        if stop():
            return
        if journal == own:  # a second look at a lock that this process holds would give it up
            continue
        with contextlib.suppress(OSError, ValueError):
            await Dead(journal, address, token, stop).run()
        await asyncio.sleep(0)
    clear(own.parent)
