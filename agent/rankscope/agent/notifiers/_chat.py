"""What the chat services have in common: a message in, their own JSON out, and an answer to read."""

from __future__ import annotations

import json
from dataclasses import dataclass

import httpx

from rankscope.agent.component import Notification, Refused, Retry
from rankscope.agent.notifiers._http import HttpNotifier
from rankscope.agent.notifiers._message import Message, message


@dataclass(kw_only=True)
class Chat(HttpNotifier):
    """A chat service with an incoming webhook."""

    async def send(self, notification: Notification) -> None:
        """Post a message about a notification. Raises Refused or Retry."""
        said = message(notification.payload)
        if said is None:
            return
        url = self.signed(self.address())
        body = json.dumps(self.body(said), ensure_ascii=False, allow_nan=False).encode()
        self.check(await self.post(url, body))

    def body(self, said: Message) -> dict[str, object]:
        """Return the service's JSON for a message."""
        raise NotImplementedError

    def signed(self, url: str) -> str:
        """Return the address to post to now."""
        return url

    def check(self, response: httpx.Response) -> None:
        """Look into an answer of 2xx. Raises Refused or Retry where the service says no all the same."""


def check_code(notifier: HttpNotifier, response: httpx.Response, field: str, busy: frozenset[int]) -> None:
    """Read the result code that some services answer with status 200; 0 or none is success.

    Raises Retry for the codes in `busy`, Refused for all others.
    """
    try:
        answer: object = response.json()
    except ValueError:
        return
    code = answer.get(field, 0) if isinstance(answer, dict) else 0  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if code == 0:
        return
    if code in busy:
        raise Retry(f"the service is busy (code {code})")
    raise Refused(f"the service answered code {code}: {notifier.excerpt(response)}")
