"""How a session ends: `finish()`, the end of the script, an exception or a signal; none of them is taken over."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

from rankscope.sdk import _guard as guard

SIGNALLED = "sigterm"  # file that the C-level handler writes the stacks to
MAX_TRACEBACK = 64 * 1024


class Ends:
    """Hooks that note how the process ends. `close()` takes them back where nobody hooked in after them."""

    def __init__(self, folder: Path) -> None:
        self.exception: BaseException | None = None
        self.exit_code: int | None = None
        self._hook: Callable[[type[BaseException], BaseException, TracebackType | None], object] = sys.excepthook
        self._exit = sys.exit
        self._file: IO[bytes] | None = None
        self._before: object = None  # the handler of SIGTERM that was there before
        sys.excepthook = self._uncaught
        sys.exit = self._leave  # type: ignore[assignment]
        self._watch_sigterm(folder)

    def _watch_sigterm(self, folder: Path) -> None:
        """Let faulthandler write the stacks on SIGTERM and pass the signal on.

        A Python handler would run only when the main thread is back in Python: a rank that hangs in a collective would
        then outlive its SIGTERM. This one runs in C, keeps the handler of the user's (getsignal shows it) and does not
        change how the process dies.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
            return  # no SIGTERM is how this process ends
        with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
            self._file = (folder / SIGNALLED).open("wb", buffering=0)
            self._before = signal.getsignal(signal.SIGTERM)
            faulthandler.register(signal.SIGTERM, file=self._file, all_threads=True, chain=True)

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not hasattr(sys, "ps1"):  # at a prompt an exception ends nothing
            self.exception = error
        self._hook(kind, error, trace)

    def _leave(self, status: object = None, /) -> None:
        if threading.current_thread() is threading.main_thread():  # elsewhere it ends the thread
            self.exit_code = _status(status)
        self._exit(status)  # type: ignore[arg-type]

    def unhook_child(self) -> None:
        """After a fork: a worker that ends by SIGTERM is not the rank."""
        with contextlib.suppress(Exception):
            if self._file is not None:
                self._unwatch_sigterm()
                self._file.close()
        self._unhook()

    def _unwatch_sigterm(self) -> None:
        """Take the C-level handler back. It puts in place what was there before it, whoever came after it."""
        now = signal.getsignal(signal.SIGTERM)
        faulthandler.unregister(signal.SIGTERM)
        if now is not self._before and now is not None:
            signal.signal(signal.SIGTERM, now)

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                if threading.current_thread() is threading.main_thread():
                    self._unwatch_sigterm()
                    self._file.close()
            self._file = None
        self._unhook()

    def _unhook(self) -> None:
        if sys.excepthook == self._uncaught:
            sys.excepthook = self._hook
        if sys.exit == self._leave:
            sys.exit = self._exit

    def fields(self, exit_code: object, signalled: str) -> dict[str, object]:
        """Return the goodbye's fields."""
        # `try: train() finally: sdk.finish()` comes here while the exception is on its way, and so does the end of a
        # process of multiprocessing, where neither sys.excepthook nor atexit run.
        error = self.exception or sys.exc_info()[1]
        # A sys.exit() that somebody caught was no end: then `finish()` is called while the main thread still runs.
        over = exit_code is None or not threading.main_thread().is_alive()
        leaving = _status(error.code) if isinstance(error, SystemExit) else self.exit_code if over else None
        code = leaving or (exit_code if isinstance(exit_code, int) else 0)
        code = max(-(2**31), min(2**31 - 1, code))
        if isinstance(error, KeyboardInterrupt):
            return {"reason": "signal", "signal": int(signal.SIGINT), "exit_code": code or 130}
        if isinstance(error, Exception):
            return {"reason": "exception", "exit_code": code or 1, **_report(error)}
        if signalled:
            return {"reason": "signal", "signal": int(signal.SIGTERM), "exit_code": code, "traceback": signalled}
        return {"reason": "finished", "exit_code": code}


def _status(status: object) -> int:
    """Return the exit status that Python makes of what sys.exit was given."""
    return int(status) & 0xFF if isinstance(status, int) else 0 if status is None else 1


def read_signal(path: Path) -> str:
    """Return the stacks that SIGTERM left behind, "" if there was none."""
    try:
        return path.read_bytes()[-MAX_TRACEBACK:].decode("utf-8", "replace")
    except OSError:
        return ""


def _report(error: BaseException) -> dict[str, object]:
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        line = traceback.format_exception_only(type(error), error)[-1].strip()
    except Exception:  # noqa: BLE001 (an exception that cannot be printed)
        text, line = "", type(error).__name__
    found: dict[str, object] = {
        "traceback": text[-MAX_TRACEBACK:].encode("utf-8", "replace").decode(),
        "exception": line[:2000].encode("utf-8", "replace").decode(),
    }
    if _out_of_memory(error) and (memory := _allocator()):
        found["memory"] = memory
    return found


def _out_of_memory(error: BaseException | None) -> bool:
    """True where torch's OutOfMemoryError, or a kind of it, is what happened, or what led to it."""
    for _ in range(16):  # errors may name each other as their cause
        if error is None:
            return False
        if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False


def _allocator() -> dict[str, float]:
    """Return the figures of torch's CUDA allocator, bytes, where torch is loaded and has a device."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    try:
        if cuda is None or not cuda.is_initialized():
            return {}
        stats = cuda.memory_stats()
        free, total = cuda.mem_get_info()
    except Exception:  # noqa: BLE001 (the device may be what failed)
        guard.failed("finish")
        return {}
    names = [f"{what}_bytes.all.{when}" for what in ("allocated", "reserved") for when in ("current", "peak")]
    names += ["inactive_split_bytes.all.current", "num_ooms"]
    found = {name: float(stats[name]) for name in names if name in stats}
    return {**found, "device_free_bytes": float(free), "device_total_bytes": float(total)}
