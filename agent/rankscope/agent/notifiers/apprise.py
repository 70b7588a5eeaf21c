"""Sends through Apprise, which speaks to a hundred services: Telegram, e-mail, Teams, PagerDuty and more."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

from rankscope.agent.component import Notification, Refused, Retry
from rankscope.agent.model import SEVERITIES, Severity
from rankscope.agent.notifiers._http import at_most_one, secret
from rankscope.agent.notifiers._markdown import markdown
from rankscope.agent.notifiers._message import Tone, message

KINDS: Mapping[Tone, str] = {"critical": "failure", "warning": "warning", "info": "info", "resolved": "success"}


class _Sender(Protocol):
    def add(self, servers: str) -> bool: ...

    async def async_notify(self, *, title: str, body: str, notify_type: str, body_format: str) -> bool: ...


@dataclass(kw_only=True)
class Apprise:
    """Sends through Apprise (`pip install 'rankscope[apprise]'`): addresses such as `tgram://…`, `mailto://…`."""

    url: str = field(default="", repr=False)
    """Where to send to: one of Apprise's addresses."""
    url_file: str = ""
    """The same, in a file."""
    min_severity: Severity = "info"
    """Alerts below this severity are not sent: info, warning or critical."""
    send_resolved: bool = True
    """Whether to tell that an alert is over."""

    def __post_init__(self) -> None:
        at_most_one(self.url, self.url_file, "url")
        if not self.url and not self.url_file:
            raise ValueError("url is missing (or url_file)")
        if self.min_severity not in SEVERITIES:
            raise ValueError(f"min_severity must be one of {', '.join(SEVERITIES)}")
        if importlib.util.find_spec("apprise") is None:
            raise ValueError("Apprise is not installed: pip install 'rankscope[apprise]'")

    async def send(self, notification: Notification) -> None:
        """Send a notification. Raises Refused or Retry."""
        said = message(notification.payload)
        if said is None:
            return
        sender = _sender()
        if not sender.add(secret(self.url, self.url_file, "url")):
            raise Refused("Apprise does not know this kind of address")
        body = markdown(said)
        if not await sender.async_notify(
            title=said.title, body=body, notify_type=KINDS[said.tone], body_format="markdown"
        ):
            raise Retry("Apprise could not deliver")

    async def close(self) -> None:
        """There is nothing to close."""


def _sender() -> _Sender:
    # It would write addresses, which hold secrets, into the log.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    return cast(_Sender, importlib.import_module("apprise").Apprise())
