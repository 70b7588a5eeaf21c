"""The queue of one receiver: bounded, in order, and on disk before anybody relies on it."""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple, cast

from rankscope.agent.alerts import store
from rankscope.agent.component import Notification

log = logging.getLogger(__name__)

REMEMBERED = 1000  # ids that a second put is recognised by
SLACK = 500  # lines about what is delivered already, before the file is written anew


class Entry(NamedTuple):
    """A notification that waits, and since when (Unix seconds)."""

    notification: Notification
    since: float


class Outbox:
    """Notifications that wait for one receiver, oldest first; kept in the file `path`, or in memory where it is None.

    The file is a log: a line for each notification that came, made safe before `put` returns, and a line for each that
    is done. A torn last line is what a crash leaves, and is ignored. A process that is killed may deliver its last
    notification twice, under the same id; it never loses one.
    """

    def __init__(self, path: Path | None, limit: int = 1000) -> None:
        self._path = path
        self._limit = limit
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._seen: deque[str] = deque(maxlen=REMEMBERED)
        self._dead = 0
        self._file: IO[bytes] | None = None
        self._broken = False
        self.busy: str | None = None  # the id that is being delivered: never dropped for room
        if path is not None and path.exists():
            self._load(path)

    def put(self, notification: Notification, now: float) -> int:
        """Take a notification, once; return how many had to be dropped to make room."""
        if notification.id in self._seen or notification.id in self._entries or self._told_already(notification):
            return 0
        self._seen.append(notification.id)
        self._entries[notification.id] = Entry(notification, now)
        self._write({"put": notification.id, "since": now, "payload": notification.payload}, sync=True)
        dropped = 0
        while len(self._entries) > self._limit:
            self.done(next(name for name in self._entries if name != self.busy))
            dropped += 1
        return dropped

    def _told_already(self, new: Notification) -> bool:
        """A reminder is needless while the receiver has not even got the announcement."""
        if new.payload.get("notification_reason") != "repeat interval elapsed":
            return False
        group = new.payload.get("groupKey")
        waiting = [e.notification for e in self._entries.values() if e.notification.payload.get("groupKey") == group]
        return bool(waiting) and waiting[-1].id != self.busy and waiting[-1].payload.get("status") == "firing"

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds: what waited so long still does."""
        for name, entry in self._entries.items():
            self._entries[name] = entry._replace(since=entry.since + seconds)
        if self._entries:
            self._rewrite()

    def head(self) -> Entry | None:
        """Return what is to be delivered next."""
        return next(iter(self._entries.values()), None)

    def done(self, name: str) -> None:
        """The notification of this id was delivered, refused or dropped."""
        if self._entries.pop(name, None) is None:
            return
        self._dead += 1
        self._write({"done": name}, sync=False)
        if self._dead > SLACK and self._dead > len(self._entries):
            self._rewrite()

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete the file: the receiver is no more."""
        self.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _load(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            log.error("%s cannot be read: %s; what waited there is not delivered", path, error.strerror)
            return
        for line in content.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # torn by a crash
            if isinstance(record, dict):
                self._replay(cast("Mapping[str, object]", record))
        self._rewrite()

    def _replay(self, record: Mapping[str, object]) -> None:
        if isinstance(seen := record.get("seen"), list):
            self._seen.extend(str(name) for name in cast("list[object]", seen))
        elif isinstance(name := record.get("put"), str):
            payload, since = record.get("payload"), record.get("since")
            if isinstance(payload, dict) and isinstance(since, (int, float)):
                self._seen.append(name)
                self._entries[name] = Entry(Notification(name, cast("Mapping[str, object]", payload)), float(since))
        elif isinstance(name := record.get("done"), str):
            self._entries.pop(name, None)

    def _write(self, record: Mapping[str, object], *, sync: bool) -> None:
        if self._path is None:
            return
        try:
            if self._file is None:
                new = not self._path.exists()
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self._path, "ab")  # noqa: SIM115 - stays open
                if new:
                    store.sync_folder(self._path.parent)
            self._file.write(_line(record))
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
            self._broken = False
        except OSError as error:
            self._complain(error)

    def _rewrite(self) -> None:
        """Leave out of the file what is delivered."""
        self._dead = 0
        if self._path is None:
            return
        self.close()
        lines = [_line({"seen": list(self._seen)})]
        for name, (notification, since) in self._entries.items():
            lines.append(_line({"put": name, "since": since, "payload": notification.payload}))
        try:
            store.replace(self._path, b"".join(lines))
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._broken:
            log.error("%s cannot be written: %s; what waits is only in memory", self._path, error.strerror)
        self._broken = True


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
