"""The agent's end of the pipe to the process that holds NVML: every wait has an end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any


class LinkError(Exception):
    """The process is of no use any more; `at`: index of the card that was being read, None where it was none."""

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message)
        self.at = at


class HungError(LinkError):
    """No answer in time."""


class GoneError(LinkError):
    """The process ended; the text says why, in the driver's words where it gave any."""


class Link:
    """One child process. `library`: folder that holds libnvidia-ml.so.1 where the loader does not look by itself."""

    def __init__(self, library: str = "") -> None:
        environment = dict(os.environ)
        if library:
            paths = [library, *filter(None, [environment.get("LD_LIBRARY_PATH")])]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rankscope.agent.samplers._nvml.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        self._buffer = b""
        self.pid = self._process.pid
        self.started = time.monotonic()
        self.versions: dict[str, str] | None = None  # None until NVML is open
        self.looked = False  # all cards were read once
        self.hung: int | None = None  # index of the card that it hangs at

    def wait_open(self, deadline: float) -> bool:
        """Wait until NVML is open, at most until `deadline` (monotonic seconds). Raises GoneError."""
        if self.versions is None:
            with contextlib.suppress(HungError):
                self.versions = self._next(deadline, None)["versions"]
        return self.versions is not None

    def ask(self, question: dict[str, Any], deadline: float) -> Iterator[dict[str, Any]]:
        """Yield the answers' lines, the last of them `end`. Raises HungError and GoneError."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
        except OSError:
            raise GoneError(self._epitaph()) from None
        at: int | None = None
        while True:
            line = self._next(deadline, at)
            at = line.get("at", at)
            yield line
            if "end" in line:
                return

    def _next(self, deadline: float, at: int | None) -> dict[str, Any]:
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([out], [], [], max(0.0, deadline - time.monotonic()))[0]:
                where = "NVML" if at is None else f"the driver of GPU {at}"
                raise HungError(f"{where} did not answer in time", at)
            read = os.read(out, 1 << 16)
            if not read:
                raise GoneError(self._epitaph(), at)
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            tree: dict[str, Any] = json.loads(line)
        except ValueError:
            raise GoneError("the process that holds NVML gave an answer that is none") from None
        if "error" in tree:
            raise GoneError(str(tree["error"]))
        return tree

    def _epitaph(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0)
            if code < 0:
                return f"the process that holds NVML was ended by {signal.Signals(-code).name}"
            return f"the process that holds NVML ended with status {code}"
        return "the process that holds NVML closed its pipe"

    def kill(self) -> None:
        """End the process without waiting: one that hangs in the kernel may outlive this by minutes."""
        with contextlib.suppress(OSError):
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def dead(self) -> bool:
        """Say whether the process is gone, and bury it if so."""
        return self._process.poll() is not None
