"""The one place that catches everything: whatever goes wrong in the SDK is said once and counted, never raised."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("rankscope")
failures: Counter[str] = Counter()
_said: set[str] = set()
_unsaid: deque[str] = deque()
_lock = threading.RLock()
_MAX_SAID = 1000


def _not_held() -> bool:
    return False


held: Callable[[], bool] = _not_held
"""True on a thread that holds the session's lock."""


def set_level(level: str) -> None:
    """Apply RANKSCOPE_LOG_LEVEL; a name that logging does not know changes nothing."""
    with contextlib.suppress(ValueError):
        log.setLevel(level.upper())


def warn(kind: str, message: str) -> None:
    """Say something once for each kind, on stderr unless the user's logging sends it elsewhere."""
    with _lock:
        if kind not in _said and len(_said) >= _MAX_SAID:
            failures["more"] += 1
            return
        failures[kind] += 1
        if kind in _said:
            return
        _said.add(kind)
        _unsaid.append(message)
    say()


def say() -> None:
    """Say what is to be said, unless this thread holds the session's lock: then whoever lets go of it does.

    A handler of the user's logging has a lock, too, and may log through the SDK under it: with both locks held, each
    by another thread, the training would stand still.
    """
    try:
        while _unsaid and not held():
            log.warning("%s", _unsaid.popleft())
    except Exception:  # noqa: BLE001 (a broken log handler of the user's is not ours to report)
        return


def failed(where: str) -> None:
    """Note the exception being handled: one warning for each place and type, with the line it came from."""
    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace is not None else "?"
    name = kind.__name__ if kind is not None else "error"
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 (an exception that cannot be printed)
        text = "?"
    warn(f"{where}:{name}", f"sdk.{where}: {name}: {text[:200]} ({line}); the training goes on without it")


def forked() -> None:
    """In the child of a fork: another thread of the parent's may have held the lock, and is not here to let go."""
    global _lock
    _lock = threading.RLock()
    _unsaid.clear()


def forget() -> None:
    """Warn again from here on: a new session, or a test."""
    with _lock:
        _said.clear()
        _unsaid.clear()
        failures.clear()


def guarded(fallback: Callable[..., R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a public function harmless: when it fails, what `fallback` gives for the same arguments is returned."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception:  # noqa: BLE001 (this is the SDK's guard)
                try:
                    failed(function.__name__)
                except RecursionError:  # so deep in calls that there is no room for a word
                    return fallback(*args, **kwargs)
                return fallback(*args, **kwargs)

        return call

    return wrap


def nothing(*_args: object, **_kwargs: object) -> None:
    """The fallback of functions that return nothing."""
