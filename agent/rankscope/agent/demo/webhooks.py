"""A real HTTP receiver for webhooks that keeps what arrives."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast


@dataclass(frozen=True, slots=True)
class Arrival:
    """One webhook: when it came (Unix seconds) and what it said."""

    time: float
    body: dict[str, object]


class Webhooks:
    """Listens on a free port of this machine; `arrived` is called with each body, in the receiver's thread."""

    def __init__(self, arrived: Callable[[Arrival], None] | None = None) -> None:
        self.arrivals: list[Arrival] = []
        self._arrived = arrived
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                now = time.time()
                text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(200)
                self.end_headers()
                outer._take(Arrival(now, cast("dict[str, object]", json.loads(text))))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (as http.server names it)
                """Say nothing: what arrives is shown by who listens."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhooks", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/"

    def _take(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        if self._arrived is not None:
            self._arrived(arrival)

    def __enter__(self) -> Webhooks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
