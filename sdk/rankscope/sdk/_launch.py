"""Starts the sender and waits for it at the end: the rank's side of the pipe between them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from rankscope.sdk._hello import directory

WAKE_EVERY = 0.25  # seconds
# The standard library comes first: a module of the user's that is called as one of its own is not for this process.
_PROGRAM = """
import json, os, sys
try:
    os.fstat(2)
except OSError:
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)  # else a file of ours takes the place of stderr, and what is said there
line = sys.stdin.buffer.raw.readline()
if not line:
    sys.exit(1)  # the rank is gone again
order = json.loads(line)
sys.path[0:1] = []
sys.path += [entry for entry in json.loads(order["path"]) if entry not in sys.path]
try:
    from rankscope.sdk._sender import main
except Exception as error:
    if order["talks"] == "yes":
        why = f"{type(error).__name__}: {error}"
        os.write(2, f"rankscope: no sender, points wait in {order['folder']}: {why}\\n".encode("utf-8", "replace"))
    sys.exit(1)
main(order)
"""


class Helper:
    """The sender's process, as the rank holds it."""

    def __init__(self, folder: Path, agent: str, talks: bool) -> None:
        """Start it. Raises OSError, ValueError or RuntimeError where no process can be started."""
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("there is no Python interpreter to start (sys.executable is none)")
        environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"}
        # -S and -E: what sitecustomize and PYTHON* would do in the rank has no business here; sys.path is handed over.
        # subprocess uses vfork for this: nothing of a large training process is copied, no fork handler runs.
        # A pair of sockets, not a pipe: writing to a sender that has died raises SIGPIPE, which ends a training that
        # has given that signal its default action back; a socket can be asked not to.
        place = directory()
        path = [os.path.join(place, entry) for entry in map(str, sys.path) if place or os.path.isabs(entry)]
        self._in, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", _PROGRAM],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                cwd="/",
                env=environment,
                start_new_session=True,
                bufsize=0,
            )
        except BaseException:
            self._in.close()
            raise
        finally:
            theirs.close()
        assert self._process.stdout is not None
        self._out = self._process.stdout
        order = {
            "folder": str(folder),
            "agent": agent,
            "parent": str(os.getpid()),
            "talks": "yes" if talks else "no",
            "path": json.dumps(path),
            "directory": place,
        }
        with contextlib.suppress(OSError):  # it has died already
            self._in.sendall(json.dumps(order).encode() + b"\n", socket.MSG_NOSIGNAL)
        self._woken = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def gone(self) -> bool:
        """True when the sender died: someone killed it, or the machine ran out of memory."""
        return self._process.poll() is not None

    def wake(self) -> bool:
        """Have the sender look at the journal now, at most a few times a second; False when it is there no more.

        Never waits: a sender that does not listen has been told already.
        """
        now = time.monotonic()
        if now - self._woken > WAKE_EVERY:
            self._woken = now
            try:
                self._in.send(b"!", socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                return False
        return True

    def finish(self, deadline: float) -> bool:
        """Tell the sender that this was all; True when everything is safe with the agent by `deadline`."""
        with contextlib.suppress(OSError):
            self._in.shutdown(socket.SHUT_WR)  # a child that was forked meanwhile may hold a copy
            self._in.close()
        answer = self._read(deadline)
        if answer:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it leaves at once: take its exit status along
                self._process.wait(0.1)
        self.forget()
        return answer == b"d"

    def _read(self, deadline: float) -> bytes:
        """Return what the sender says next, b"" when it says nothing in time."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return b""
        try:
            return os.read(self._out.fileno(), 1)
        except OSError:
            return b""

    def forget(self) -> None:
        """Let go of the process without waiting for it, and without a warning that it still runs."""
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):
                pipe.close()
        if self._process.returncode is None:
            self._process.returncode = 0
