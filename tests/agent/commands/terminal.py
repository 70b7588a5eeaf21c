"""A terminal for a program under test: what it prints, what is typed, how large it is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence

PATIENCE = 30.0  # seconds


class Terminal:
    """Runs a program on a terminal of its own."""

    def __init__(self, command: Sequence[str], width: int, height: int, **environment: str) -> None:
        self._ours, self._its = pty.openpty()
        self.text = ""  # everything that it printed
        self._resize(width, height)
        variables = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        variables |= {"TERM": "xterm-256color", "TZ": "UTC", **environment}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],  # its controlling terminal: Ctrl-C becomes a signal
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            env=variables,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        os.close(self._ours)
        os.close(self._its)

    def wait(self, words: str, times: int = 1) -> None:
        """Read until `words` were printed so often."""
        self._until(lambda: self.text.count(words) >= times, words)

    def wait_last(self, true: Callable[[str], object]) -> None:
        """Read until the newest picture is as wanted."""
        self._until(lambda: true(self.last()), "the picture that was wanted")

    def last(self) -> str:
        """Return the newest picture: what was printed since the cursor went home."""
        return self.text.rpartition("\x1b[H")[2]

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, width: int, height: int) -> None:
        self._resize(width, height)
        os.kill(self.process.pid, signal.SIGWINCH)

    def ended(self) -> int:
        """Wait for the end; return the exit status."""
        self._until(lambda: self.process.poll() is not None, "the end")
        while self._read(0.05):
            pass
        return self.process.returncode

    @property
    def cooked(self) -> bool:
        """True where typed characters are shown, and come by the line."""
        flags: int = termios.tcgetattr(self._its)[3]
        return bool(flags & termios.ECHO) and bool(flags & termios.ICANON)

    def _until(self, true: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, f"waited for {what!r}; the end of what came: {self.text[-3000:]!r}"
            self._read(0.1)

    def _read(self, patience: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], patience)
        if not ready:
            return False
        with contextlib.suppress(OSError):
            self.text += os.read(self._ours, 65536).decode(errors="replace")
            return True
        return False

    def _resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
