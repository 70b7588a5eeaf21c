"""Posts to a group of Feishu or Lark through a custom bot."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from rankscope.agent.notifiers._chat import Chat, check_code
from rankscope.agent.notifiers._http import at_most_one, secret
from rankscope.agent.notifiers._message import Message, Tone, cut_bytes

TEXT_LIMIT = 3000  # bytes of one element; a request may hold 20 KB
TEMPLATES: Mapping[Tone, str] = {"critical": "red", "warning": "orange", "info": "blue", "resolved": "green"}
BUSY = frozenset({9499, 11232, 11233})  # too many requests


@dataclass(kw_only=True)
class Feishu(Chat):
    """Posts to a Feishu or Lark group through a custom bot; with a `secret`, signed as the bot's settings ask for."""

    secret: str = field(default="", repr=False)
    """What the bot's settings show under "Set signature verification"."""
    secret_file: str = ""
    """The same, in a file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_most_one(self.secret, self.secret_file, "secret")

    def body(self, said: Message) -> dict[str, object]:
        """Return Feishu's JSON for a message, signed where there is a secret."""
        elements: list[dict[str, object]] = []
        for item in said.items:
            lines = [("✅ " if item.resolved else "") + _escape(item.summary)]
            lines += [f"**{name}** {_escape(value)}" for name, value in item.facts]
            elements.append(
                {"tag": "div", "text": {"tag": "lark_md", "content": cut_bytes("\n".join(lines), TEXT_LIMIT)}}
            )
        if said.more:
            elements.append({"tag": "div", "text": {"tag": "plain_text", "content": f"… and {said.more} more"}})
        if said.link:
            button = {"tag": "button", "text": {"tag": "plain_text", "content": "Rankscope"}, "url": said.link}
            elements.append({"tag": "action", "actions": [button]})
        header = {"title": {"tag": "plain_text", "content": said.title}, "template": TEMPLATES[said.tone]}
        card = {"config": {"wide_screen_mode": True}, "header": header, "elements": elements}
        body: dict[str, object] = {"msg_type": "interactive", "card": card}
        if key := secret(self.secret, self.secret_file, "secret"):
            self.hide(key)
            stamp = str(int(time.time()))
            body |= {"timestamp": stamp, "sign": signature(key, stamp)}
        return body

    def check(self, response: httpx.Response) -> None:
        """Read the code in the answer. Raises Refused or Retry."""
        check_code(self, response, "code", BUSY)


def signature(key: str, stamp: str) -> str:
    """Return Base64 of HMAC-SHA256 over nothing, keyed with `<seconds>\\n<secret>`."""
    return base64.b64encode(hmac.new(f"{stamp}\n{key}".encode(), b"", hashlib.sha256).digest()).decode()


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("*", "&#42;")
