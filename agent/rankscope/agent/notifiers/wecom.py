"""Posts to a group of WeCom (WeChat Work) through a group robot."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from rankscope.agent.notifiers._chat import Chat, check_code
from rankscope.agent.notifiers._markdown import markdown
from rankscope.agent.notifiers._message import Message, cut_bytes

TEXT_LIMIT = 4000  # bytes; WeCom refuses more than 4,096
BUSY = frozenset({-1, 45009, 45033})  # the system is busy; too many messages; too many at once


@dataclass(kw_only=True)
class Wecom(Chat):
    """Posts to a WeCom group through a group robot (`https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=…`)."""

    def body(self, said: Message) -> dict[str, object]:
        """Return WeCom's JSON for a message."""
        return {"msgtype": "markdown", "markdown": {"content": cut_bytes(markdown(said), TEXT_LIMIT)}}

    def check(self, response: httpx.Response) -> None:
        """Read the code in the answer. Raises Refused or Retry."""
        check_code(self, response, "errcode", BUSY)
