"""Posts to a group of DingTalk through a custom robot."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from urllib.parse import urlencode

import httpx

from rankscope.agent.notifiers._chat import Chat, check_code
from rankscope.agent.notifiers._http import at_most_one, secret
from rankscope.agent.notifiers._markdown import markdown
from rankscope.agent.notifiers._message import Message, cut_bytes

TEXT_LIMIT = 15_000  # bytes; DingTalk refuses requests of more than 20,000
BUSY = frozenset({-1, 130101, 410100})  # the system is busy; too many messages


@dataclass(kw_only=True)
class Dingtalk(Chat):
    """Posts to a DingTalk group through a custom robot; with a `secret`, signed as its security settings ask for."""

    secret: str = field(default="", repr=False)
    """What the robot's security settings show under additional signature (`SEC…`)."""
    secret_file: str = ""
    """The same, in a file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_most_one(self.secret, self.secret_file, "secret")

    def body(self, said: Message) -> dict[str, object]:
        """Return DingTalk's JSON for a message."""
        text = cut_bytes(markdown(said, line="\n\n"), TEXT_LIMIT)
        return {"msgtype": "markdown", "markdown": {"title": said.title, "text": text}}

    def signed(self, url: str) -> str:
        """Return the address with time and signature where there is a secret."""
        key = secret(self.secret, self.secret_file, "secret")
        if not key:
            return url
        self.hide(key)
        stamp = str(int(time.time() * 1000))
        query = urlencode({"timestamp": stamp, "sign": signature(key, stamp)})
        return f"{url}{'&' if '?' in url else '?'}{query}"

    def check(self, response: httpx.Response) -> None:
        """Read the code in the answer. Raises Refused or Retry."""
        check_code(self, response, "errcode", BUSY)


def signature(key: str, stamp: str) -> str:
    """Return Base64 of HMAC-SHA256 over `<milliseconds>\\n<secret>`, keyed with the secret."""
    return base64.b64encode(hmac.new(key.encode(), f"{stamp}\n{key}".encode(), hashlib.sha256).digest()).decode()
