"""The rank's side of telling where it is: faulthandler writes the stacks of all threads on a signal."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
from pathlib import Path
from typing import IO

FILE = "stacks"  # in the journal's folder
SIGNAL = signal.SIGRTMAX - 7


class Traces:
    """Keeps the handler. It runs in C: also while the main thread hangs in a collective, with the GIL held."""

    def __init__(self, folder: Path) -> None:
        """Register the handler; where someone else has the signal, or the disk is full, there are no stacks."""
        self._file: IO[bytes] | None = None
        if signal.getsignal(SIGNAL) is not signal.SIG_DFL:
            return
        with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
            file = (folder / FILE).open("ab", buffering=0)
            faulthandler.register(SIGNAL, file=file, all_threads=True)
            self._file = file

    def close(self) -> None:
        """Take the handler back; the sender has left by now, or was told that this is the end."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                faulthandler.unregister(SIGNAL)
                file.close()
