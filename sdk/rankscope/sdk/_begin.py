"""Makes the folder of a new session: the lock that says that its rank lives, who it is, an empty journal."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rankscope.sdk import _spool as spool
from rankscope.sdk._hello import describe
from rankscope.sdk._identity import Identity, boot
from rankscope.sdk._journal import DEFAULT_BYTES, Journal
from rankscope.sdk._live import Live
from rankscope.sdk._session import Session


@dataclass(frozen=True)
class Request:
    """What `init()` was asked for."""

    project: str = ""
    name: str = ""
    config: object = None
    tags: object = ()
    notes: object = None


@dataclass
class Begun:
    """A session and what it stands on. `lock` is held as long as the rank writes."""

    session: Session
    folder: Path
    lock: int
    fields: dict[str, object]  # of hello.json


def begin(identity: Identity, request: Request, warn: Callable[[str, str], None]) -> Begun:
    """Begin in the spool, or where that cannot be, in memory that outlives the process. Raises OSError."""
    wanted = spool.default_spool()
    try:
        return begin_in(spool.open_spool(wanted), identity, request, warn)
    except OSError as error:
        spare = Path(f"/dev/shm/rankscope-{os.geteuid()}")
        why = error.strerror or str(error)
        try:
            begun = begin_in(spool.open_spool(spare), identity, request, warn)
        except OSError:
            raise OSError(f"cannot keep points in {wanted}: {why}: set RANKSCOPE_SPOOL to another folder") from None
        warn("init:spool", f"cannot keep points in {wanted}: {why}: they wait in {spare}")
        return begun


def begin_in(place: Path, identity: Identity, request: Request, warn: Callable[[str, str], None]) -> Begun:
    """Begin in a spool that is there. Raises OSError, and leaves nothing behind then."""
    folder = place / secrets.token_hex(8)
    folder.mkdir(mode=0o700)
    lock: int | None = None
    try:
        lock = spool.lock(folder / spool.WRITER, make=True)
        if lock is None:
            raise OSError(f"{folder} is in use")
        (folder / spool.SENDER).touch(mode=0o600)
        mapped = spool.mappable(folder)
        live = Live(folder, mapped)
        fields = describe(identity, int(folder.name, 16) or 1, request, folder)
        fields["started_unix_seconds"] = time.time()
        fields["boot"] = boot()
        write_hello(folder, fields)
        journal = Journal(folder, live, mapped, warn, _bound(warn))
    except BaseException:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Begun(Session(journal, live), folder, lock, fields)


def _bound(warn: Callable[[str, str], None]) -> int:
    """Return how many bytes a journal may have: RANKSCOPE_SPOOL_BYTES."""
    given = os.environ.get("RANKSCOPE_SPOOL_BYTES") or str(DEFAULT_BYTES)
    if given.isdecimal():
        return int(given)
    warn("init:bytes", f"RANKSCOPE_SPOOL_BYTES={given[:40]!r} is no number of bytes: {DEFAULT_BYTES} is taken")
    return DEFAULT_BYTES


def write_hello(folder: Path, fields: dict[str, object]) -> None:
    """Write who the rank is: from then on the folder is a journal to whoever looks. Raises OSError."""
    draft = folder / "hello.tmp"
    draft.write_text(json.dumps(fields))
    os.replace(draft, folder / spool.HELLO)
