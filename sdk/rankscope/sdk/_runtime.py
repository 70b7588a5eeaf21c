"""Begins and ends sessions: the spool, the locks, the sender and the hooks around them."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rankscope.sdk import _guard as guard
from rankscope.sdk import _session as state
from rankscope.sdk import _spool as spool
from rankscope.sdk._address import default_agent
from rankscope.sdk._ends import SIGNALLED, Ends, read_signal
from rankscope.sdk._hello import describe
from rankscope.sdk._identity import Identity, boot, identify
from rankscope.sdk._journal import Journal
from rankscope.sdk._launch import Helper
from rankscope.sdk._live import Live
from rankscope.sdk._session import Session

FINISH_SECONDS = 1.9  # finish() takes at most 2 s, all told


class Running:
    """A session with all that keeps it going."""

    def __init__(
        self, session: Session, folder: Path, lock: int, identity: Identity, fields: Mapping[str, object]
    ) -> None:
        self.session = session
        self.folder = folder
        self.lock = lock
        self.identity = identity
        self.fields = fields
        self.ends: Ends | None = None
        self.helper: Helper | None = None

    def end(self, exit_code: object) -> None:
        """Write the goodbye, let the sender deliver, leave the rest on disk."""
        deadline = time.monotonic() + FINISH_SECONDS
        signalled = read_signal(self.folder / SIGNALLED)
        fields = self.ends.fields(exit_code, signalled) if self.ends else {"reason": "finished"}
        if self.ends is not None:
            self.ends.close()
        self.session.end(fields, deadline)
        os.close(self.lock)
        if self.helper is not None:
            self.helper.finish(deadline)

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent, without touching it."""
        for file in (*self.session.descriptors(), self.lock):
            with contextlib.suppress(OSError):
                os.close(file)
        if self.helper is not None:
            self.helper.forget()
        if self.ends is not None:
            self.ends.unhook_child()


running: Running | None = None
_sessions = 0  # that this process began
_hooked = False
_child = False  # this process was forked from one with the SDK in it


def start(
    project: str | None,
    name: str | None,
    config: object,
    run_id: str | None,
    tags: Sequence[str],
    notes: str | None,
    agent: str | None,
    mode: str | None,
) -> None:
    """Begin a session; whatever goes wrong leaves the SDK switched off, with one warning."""
    global running, _sessions
    stop(0)
    environ = os.environ
    if level := environ.get("RANKSCOPE_LOG_LEVEL"):
        guard.set_level(level)
    mode = mode or environ.get("RANKSCOPE_MODE") or "online"
    if mode == "disabled" or worker():
        return
    if mode != "online":
        guard.warn("init:mode", f"sdk.init: mode {str(mode)[:40]!r} is neither online nor disabled: online is taken")
    _hook()
    identity = identify(environ, str(run_id or ""), _sessions)
    found = _open(
        identity,
        project or environ.get("RANKSCOPE_PROJECT", ""),
        name or environ.get("RANKSCOPE_NAME", ""),
        config,
        tags,
        notes,
    )
    _sessions += 1
    found.ends = Ends(found.folder)
    try:
        found.helper = Helper(found.folder, _address(agent), identity.rank == 0 and guard.log.isEnabledFor(20))
    except (OSError, ValueError) as error:
        guard.warn("init:sender", f"no sender could be started ({error}): points wait in {found.folder}")
    running = found
    state.current = found.session


def stop(exit_code: object) -> None:
    """End the session of this process, if there is one."""
    global running
    ending, running, state.current = running, None, None
    if ending is not None:
        ending.end(exit_code)


def worker() -> bool:
    """True in a process that is no rank: a fork of one, a DataLoader worker, a child that just imports the script."""
    if _child:
        return True
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return False
    if getattr(process.current_process(), "_inheriting", False):
        return True
    parent = process.parent_process()
    data = sys.modules.get("torch.utils.data")
    loads = data is not None and data.get_worker_info() is not None
    return parent is not None and (loads or os.environ.get("RANKSCOPE_OWNER") == str(parent.pid))


def _address(agent: str | None) -> str:
    return str(agent) if agent else default_agent()


def _open(
    identity: Identity, project: str, name: str, config: object, tags: Sequence[str], notes: str | None
) -> Running:
    """Create the journal in the spool, or where that cannot be, in memory that outlives the process. Raises OSError."""
    first = spool.default_spool()
    spare = Path(f"/dev/shm/rankscope-{os.geteuid()}")
    for place in (first, spare):
        try:
            folder, lock = _create(spool.open_spool(place))
        except OSError as error:
            why = error.strerror or str(error)
            if place == spare or first == spare:
                raise
            guard.warn("init:spool", f"cannot keep points in {first}: {why}: they wait in {spare}")
            continue
        try:
            return _fill(folder, lock, identity, project, name, config, tags, notes)
        except OSError as error:
            os.close(lock)
            if place == spare:
                raise
            guard.warn("init:spool", f"cannot keep points in {first}: {error.strerror or error}: they wait in {spare}")
    raise OSError("no folder for points that wait: set RANKSCOPE_SPOOL")


def _create(place: Path) -> tuple[Path, int]:
    folder = place / f"{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    lock = spool.lock(folder / spool.WRITER)
    if lock is None:
        raise OSError(f"{folder} is in use")
    return folder, lock


def _fill(
    folder: Path,
    lock: int,
    identity: Identity,
    project: str,
    name: str,
    config: object,
    tags: Sequence[str],
    notes: str | None,
) -> Running:
    fields = describe(identity, int(folder.name, 16) or 1, project, name, config, tags, notes, folder)
    fields["started_unix_seconds"] = time.time()
    fields["boot"] = boot()
    mapped = spool.mappable(folder)
    live = Live(folder, mapped)
    draft = folder / "hello.tmp"
    draft.write_text(json.dumps(fields))
    os.replace(draft, folder / spool.HELLO)
    journal = Journal(folder, live, mapped, guard.warn)
    return Running(Session(journal, live), folder, lock, identity, fields)


def _hook() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_forked)
        atexit.register(_at_exit)
    os.environ["RANKSCOPE_OWNER"] = str(os.getpid())


def _at_exit() -> None:
    try:
        stop(None)
    except Exception:  # noqa: BLE001 (this is the SDK's guard)
        guard.failed("finish")


def _forked() -> None:
    """The child of a fork has no session, and nothing of the parent's in its hands."""
    global running, _child
    _child = True
    inherited, running, state.current = running, None, None
    if inherited is not None:
        try:
            inherited.abandon()
        except Exception:  # noqa: BLE001 (this is the SDK's guard)
            return


def surplus(extra: Sequence[object], step: int | None) -> int | None:
    """Say that `log()` takes one dict, and make the best of what else was given."""
    guard.warn("log:arguments", "sdk.log takes one dict; give the step as step=…")
    first = extra[0]
    return first if step is None and isinstance(first, int) else step
