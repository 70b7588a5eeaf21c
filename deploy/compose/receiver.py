"""Prints each notification that arrives: `python3 receiver.py PORT`."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT = 4_000_000  # bytes of one notification


class Receiver(BaseHTTPRequestHandler):
    """Takes Alertmanager's webhook payload."""

    def do_POST(self) -> None:
        size = min(int(self.headers.get("Content-Length") or 0), LIMIT)
        try:
            payload = json.loads(self.rfile.read(size))
            for alert in payload["alerts"]:
                labels = alert["labels"]
                told = alert["annotations"].get("summary", "")
                print(
                    f"{self.path} {alert['status']}: {labels['alertname']} {labels.get('run', '')} {told}", flush=True
                )
        except (ValueError, KeyError, TypeError):
            self.send_response(400)
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """What arrived is printed above; the access log would only hide it."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(sys.argv[1])), Receiver).serve_forever()
