"""The picture on a terminal, redrawn until somebody has seen enough."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import AsyncIterator, Generator

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rankscope.agent.terminal.picture import lines
from rankscope.agent.terminal.section import Frame
from rankscope.agent.terminal.seen import Seen

REDRAW = 1.0  # seconds: times are shown to the second
QUIT = ("q", "Q", "\x03", "\x04")


def coloured(console: Console) -> bool:
    return console.is_terminal and console.color_system is not None and not console.no_color


def still(console: Console, seen: Seen) -> Text:
    """Return one whole picture as it is now, as many lines as it takes."""
    return Text("\n", no_wrap=True, overflow="crop").join(
        lines(seen, Frame(seen.time, console.width, coloured(console)))
    )


class Screen:
    """Shows what comes on the alternate screen of a terminal; `q` and Ctrl-C end it, Ctrl-Z stops it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[object] = []  # how the terminal was
        self._changed = asyncio.Event()
        self._over = False
        self._seen: Seen | None = None
        self._heard = 0.0  # monotonic seconds
        self._lost = ""

    async def show(self, news: AsyncIterator[Seen | str]) -> None:
        """Show each `Seen`; a text says why none comes any more for now. Raises what `news` raises."""
        listening = asyncio.ensure_future(self._listen(news))
        try:
            with self._signals(), self._terminal():
                while not self._over and not listening.done():
                    self._changed.clear()
                    self._draw()
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), REDRAW)
        finally:
            if not listening.done():
                listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening

    async def _listen(self, news: AsyncIterator[Seen | str]) -> None:
        try:
            async for each in news:
                if isinstance(each, Seen):
                    self._seen, self._heard, self._lost = each, time.monotonic(), ""
                else:
                    self._lost = self._lost or each
                self._changed.set()
        finally:
            self._changed.set()

    def _draw(self) -> None:
        if self._seen is None:
            return
        ago = time.monotonic() - self._heard
        width, height = self._console.size
        now = self._seen.time if self._lost else self._seen.time + ago
        keys = "q quits" if self._keys is not None else "Ctrl-C quits"
        frame = Frame(now, width, coloured(self._console), live=True)
        drawn = lines(self._seen, frame, height, lost=self._lost, lost_for=ago, keys=keys)
        self._live.update(Text("\n", no_wrap=True, overflow="crop").join(drawn), refresh=True)

    @contextlib.contextmanager
    def _signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in ends:
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGWINCH, self._changed.set)
        loop.add_signal_handler(signal.SIGTSTP, self._stop)
        try:
            yield
        finally:
            for number in (*ends, signal.SIGWINCH, signal.SIGTSTP):
                loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def _terminal(self) -> Generator[None, None, None]:
        self._take()
        try:
            yield
        finally:
            self._give_back()

    def _take(self) -> None:
        if self._keys is not None:
            self._before = list(termios.tcgetattr(self._keys))
            tty.setcbreak(self._keys)
            asyncio.get_running_loop().add_reader(self._keys, self._typed)
        self._live.start()

    def _give_back(self) -> None:
        self._live.stop()
        if self._keys is not None:
            asyncio.get_running_loop().remove_reader(self._keys)
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]

    def _typed(self) -> None:
        typed = os.read(self._keys or 0, 64).decode(errors="ignore")
        if not typed or any(key in QUIT for key in typed):
            self._end()
        self._changed.set()

    def _end(self) -> None:
        self._over = True
        self._changed.set()

    def _stop(self) -> None:
        """Ctrl-Z: give the terminal back to the shell until it lets this go on."""
        loop = asyncio.get_running_loop()
        self._give_back()
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, self._stop)
        self._take()
        self._changed.set()
