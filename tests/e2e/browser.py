"""A headless Chromium spoken to over a pipe: opens pages, reads all of their text, takes pictures."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEXT = """(() => {
  const texts = [];
  const walk = (node) => {
    if (node.nodeType === Node.TEXT_NODE) { texts.push(node.textContent); return; }
    if (node.nodeName === 'SCRIPT' || node.nodeName === 'STYLE') { return; }
    if (node.shadowRoot) { walk(node.shadowRoot); }
    node.childNodes.forEach(walk);
  };
  walk(document.body);
  return texts.join(' ');
})()"""


class Browser:
    """Speaks Chromium's debugging protocol: JSON messages that end with a zero byte."""

    def __init__(self, to: int, back: int) -> None:
        self._to = to
        self._back = os.fdopen(back, "rb", buffering=0)
        self._pending = b""
        self._number = 0

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._pending:
                part = self._back.read(1 << 20)
                assert part, "the browser is gone"
                self._pending += part
            line, _, self._pending = self._pending.partition(b"\0")
            answer: dict[str, Any] = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str) -> str:
        """Open a page; return the session to speak with it."""
        target = self.call("Target.createTarget", url=url)["targetId"]
        session: str = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return session

    def text(self, session: str) -> str:
        """Return all text of a page, that inside its components included."""
        found = self.call("Runtime.evaluate", session, expression=TEXT, returnByValue=True)
        return str(found.get("result", {}).get("value", ""))

    def wait_for(self, session: str, text: str, patience: float = 40.0) -> str:
        """Return a page's text once it holds `text`, or what it holds at the end of patience."""
        deadline = time.monotonic() + patience
        while text not in (found := self.text(session)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def picture(self, session: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", session, format="png")["data"]))


@contextmanager
def browser(chromium: str, profile: Path) -> Iterator[Browser]:
    """Start a browser; it ends with the block."""
    read, to = os.pipe()
    back, write = os.pipe()
    options = [
        "--headless=new",
        "--remote-debugging-pipe",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1400,1000",
        f"--user-data-dir={profile}",
    ]
    script = f'exec "$@" 3<&{read} 4>&{write}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", chromium, *options], pass_fds=(read, write), stderr=subprocess.DEVNULL
    )
    os.close(read)
    os.close(write)
    try:
        yield Browser(to, back)
    finally:
        os.close(to)
        process.terminate()
        process.wait(60)
