"""What is asked of a rank that is connected, and who waits for the answer."""

from __future__ import annotations

import asyncio
import time

from rankscope.agent.model import Stacks

HURRY_EVERY = 0.25  # seconds


class Questions:
    """The questions of one session: by number, where the rank is; None, that it shall send what it has."""

    def __init__(self) -> None:
        self._open: asyncio.Queue[int | None] = asyncio.Queue()
        self._waiting: dict[int, asyncio.Future[Stacks]] = {}
        self._last = 0
        self._hurried = 0.0  # monotonic

    @property
    def any(self) -> bool:
        """True while a question waits to be put to the rank."""
        return not self._open.empty()

    async def next(self) -> int | None:
        """Wait for the next question; return its number."""
        return await self._open.get()

    def hurry(self) -> None:
        """Have the rank send what it has, a few times a second at most."""
        now = time.monotonic()
        if now - self._hurried >= HURRY_EVERY:
            self._hurried = now
            self._open.put_nowait(None)

    async def ask(self, patience: float) -> Stacks:
        """Ask where the rank is, and wait so many seconds for the answer."""
        question = self._last = self._last + 1
        waiting = self._waiting[question] = asyncio.get_running_loop().create_future()
        self._open.put_nowait(question)
        try:
            return await asyncio.wait_for(waiting, patience)
        except asyncio.TimeoutError:
            return Stacks(refused=f"no answer within {patience:g} s: its sender is wedged, or its SDK is an older one")
        finally:
            del self._waiting[question]

    def answered(self, question: int, stacks: Stacks) -> None:
        """Pass an answer on; one that nobody waits for any more is dropped."""
        waiting = self._waiting.get(question)
        if waiting is not None and not waiting.done():
            waiting.set_result(stacks)

    def close(self) -> None:
        """No answer will come any more."""
        for question in list(self._waiting):
            self.answered(question, Stacks(refused="the rank's stream ended"))
