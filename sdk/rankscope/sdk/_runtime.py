"""Begins and ends the session of this process, with the sender beside it and the hooks around it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

from rankscope.sdk import _guard as guard
from rankscope.sdk import _session as state
from rankscope.sdk import _workers as workers
from rankscope.sdk._address import default_agent
from rankscope.sdk._begin import Begun, Request, begin, begin_in, write_hello
from rankscope.sdk._ends import SIGNALLED, Ends, read_signal
from rankscope.sdk._hello import config_json
from rankscope.sdk._identity import identify
from rankscope.sdk._launch import Helper
from rankscope.sdk._traces import Traces
from rankscope.sdk._values import clean

FINISH_SECONDS = 1.9  # finish() takes at most 2 s, all told
MAX_RESTARTS = 10  # of the sender, in a session
NO_PROCESS = (OSError, ValueError, RuntimeError)  # the last where the interpreter ends, or is not the main one


class Running:
    """The session with all that keeps it going."""

    def __init__(self, begun: Begun) -> None:
        self.begun = begun
        self.ends: Ends | None = None
        self.traces: Traces | None = None
        self.helper: Helper | None = None
        self._restarts = 0
        self._address = ""

    def send_to(self, address: str, talks: bool) -> None:
        """Start the sender. Raises one of NO_PROCESS where that is not possible."""
        self._address = address
        self.helper = Helper(self.begun.folder, address, talks)
        self.begun.session.tend = self.tend
        self.begun.session.hurry = self.hurry

    def tend(self) -> None:
        """Start another sender where ours has died; called now and then by whoever logs."""
        if self.helper is None or self._restarts >= MAX_RESTARTS or not self.helper.gone:
            return
        self._restarts += 1
        self.helper.forget()
        try:
            self.helper = Helper(self.begun.folder, self._address, False)
        except NO_PROCESS:
            self.helper = None

    def hurry(self) -> None:
        """Have the sender look now: a number that is not finite was logged, or an alert."""
        if self.helper is not None and not self.helper.wake():
            self.tend()

    def end(self, exit_code: object) -> None:
        """Write the goodbye, let the sender deliver, leave the rest on disk."""
        deadline = time.monotonic() + FINISH_SECONDS
        try:
            fields: Mapping[str, object] = {"reason": "finished"}
            if self.ends is not None:
                fields = self.ends.fields(exit_code, read_signal(self.begun.folder / SIGNALLED))
                self.ends.close()
            self.begun.session.end(fields, deadline)
        finally:
            os.close(self.begun.lock)
            if self.helper is not None:
                self.helper.finish(deadline)
            if self.traces is not None:
                self.traces.close()

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent, without touching it."""
        self.begun.session.abandon()
        os.close(self.begun.lock)
        if self.helper is not None:
            self.helper.forget()
        if self.ends is not None:
            self.ends.unhook_child()
        if self.traces is not None:
            self.traces.close()


running: Running | None = None
_sessions = 0  # that this process began
_hooked = False
_turn = threading.RLock()  # of whoever begins or ends a session
_PAUSE = 1.0  # seconds at most that a fork, or an end, waits for it
_capturing = False


def start(request: Request, run_id: object, agent: object, mode: object) -> None:
    """Begin a session, ending the one before. Raises OSError where points can be kept nowhere."""
    with _turn:
        _start(request, run_id, agent, mode)


def _start(request: Request, run_id: object, agent: object, mode: object) -> None:
    global running, _sessions
    if _capturing:
        _adopt(request)
        return
    stop(0)
    environ = os.environ
    if level := environ.get("RANKSCOPE_LOG_LEVEL"):
        guard.set_level(level)
    mode = mode or environ.get("RANKSCOPE_MODE") or "online"
    if mode == "disabled" or workers.worker():
        return
    if mode != "online":
        guard.warn("init:mode", f"sdk.init: mode {str(mode)[:40]!r} is neither online nor disabled: online is taken")
    _hook()
    identity = identify(environ, str(run_id or ""), _sessions)
    begun = begin(identity, request, guard.warn)
    _sessions += 1
    found = Running(begun)
    found.ends = Ends(begun.folder)
    found.traces = Traces(begun.folder)
    talks = identity.rank == 0 and guard.log.level <= logging.INFO
    try:
        found.send_to(str(agent) if agent else default_agent(), talks)
    except NO_PROCESS as error:
        guard.warn("init:sender", f"no sender could be started ({error}): points wait in {begun.folder}")
    running = found
    state.current = begun.session


def stop(exit_code: object) -> None:
    """End the session of this process, if there is one."""
    global running
    ending, running, state.current = running, None, None
    if ending is None:
        return
    turn = _turn
    waited = turn.acquire(timeout=_PAUSE)
    try:
        ending.end(exit_code)
    finally:
        if waited:
            turn.release()


def surplus(extra: Sequence[object], step: int | None) -> int | None:
    """Say that `log()` takes one dict, and make the best of what else was given."""
    guard.warn("log:arguments", "sdk.log takes one dict; give the step as step=…")
    first = extra[0]
    return first if step is None and isinstance(first, int) else step


@contextlib.contextmanager
def captured(place: Path, request: Request) -> Generator[Begun]:
    """Begin a session that nobody sends, in a folder of the caller's; the session of this process ends before it."""
    global running, _capturing
    stop(0)
    guard.forget()
    running = Running(begin_in(place, identify(os.environ), request, guard.warn))
    state.current = running.begun.session
    _capturing = True
    try:
        yield running.begun
    finally:
        _capturing = False
        stop(0)


def _adopt(request: Request) -> None:
    """Go on with the captured session under what `init()` says."""
    if running is not None:
        fields = running.begun.fields
        fields.update(project=clean(request.project, 256), name=clean(request.name, 256))
        fields.update(config_json=config_json(request.config))
        write_hello(running.begun.folder, fields)


def _hook() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forked)
        atexit.register(_at_exit)
        if (process := sys.modules.get("multiprocessing.process")) is not None and process.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, _at_exit, exitpriority=10)  # atexit does not run in these


def _at_exit() -> None:
    try:
        stop(None)
    except Exception:  # noqa: BLE001 (this is the SDK's guard)
        guard.failed("finish")


_masks: dict[int, set[int | signal.Signals]] = {}  # of each thread that forks, while it does
_paused: dict[int, list[Callable[[], None]]] = {}  # how all goes on after the fork, likewise


def _before_fork() -> None:
    """Hold SIGTERM back: a worker that is ended in its first moment must not look like the rank's end.

    Other threads wait in `log()`, `init()` and `finish()`: a file that one of them is opening would be the child's,
    too, and nobody knew of it.
    """
    turn = _turn
    _paused[threading.get_ident()] = [turn.release] if turn.acquire(timeout=_PAUSE) else []
    if running is not None:
        _paused[threading.get_ident()].append(running.begun.session.pause())
        _masks[threading.get_ident()] = set(signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,)))


def _after_fork() -> None:
    for go_on in _paused.pop(threading.get_ident(), ()):
        go_on()
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:  # the session may have ended meanwhile
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forked() -> None:
    """The child of a fork has no session, and nothing of the parent's in its hands."""
    global running, _turn
    _turn = threading.RLock()
    guard.forked()
    inherited, running, state.current = running, None, None
    if inherited is not None:
        workers.forked()
        try:
            inherited.abandon()
        except Exception:  # noqa: BLE001 (this is the SDK's guard)
            guard.failures["fork"] += 1
    _after_fork()
    _paused.clear()  # what is left is of threads that are not here
    _masks.clear()
