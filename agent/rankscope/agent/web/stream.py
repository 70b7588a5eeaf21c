"""Server-sent events: the state once a second, computed once for everybody who watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rankscope.agent.web.answers import dump, error
from rankscope.agent.web.snapshot import snapshot
from rankscope.agent.web.view import View

INTERVAL = 1.0  # seconds between two events
WATCHERS = 32  # streams at a time


class Stream:
    """Sends snapshots to whoever watches."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._watchers = 0
        self._made = 0.0
        self._event = ""

    def routes(self) -> list[Route]:
        return [Route("/api/v1/stream", self._stream)]

    async def _stream(self, request: Request) -> Response:
        if self._watchers >= WATCHERS:
            return error(503, f"{WATCHERS} streams are open already")
        return _Watched(self)

    @contextlib.contextmanager
    def watched(self) -> Generator[None, None, None]:
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def events(self) -> AsyncIterator[str]:
        yield "retry: 2000\n\n"
        while True:
            yield self._newest()
            if not self._view.ready():
                return
            await asyncio.sleep(INTERVAL)

    def _newest(self) -> str:
        now = self._view.now()
        if not self._event or now - self._made >= INTERVAL / 2 or now < self._made:
            self._made = now
            self._event = f"event: snapshot\ndata: {dump(snapshot(self._view))}\n\n"
        return self._event


class _Watched(StreamingResponse):
    """One stream, counted from its first to its last byte."""

    def __init__(self, stream: Stream) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(stream.events(), media_type="text/event-stream", headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stream.watched():
            await super().__call__(scope, receive, send)
