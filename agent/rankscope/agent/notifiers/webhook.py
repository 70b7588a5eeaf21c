"""Posts Alertmanager's webhook payload to an address of one's own."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from rankscope.agent.component import Notification, Retry
from rankscope.agent.notifiers._authorized import Authorized
from rankscope.agent.notifiers._http import at_most_one, secret


@dataclass(kw_only=True)
class Webhook(Authorized):
    """Posts alerts as JSON in Alertmanager's webhook format, version 4.

    With a `secret`, requests are signed as standardwebhooks.com describes it: `webhook-signature` is `v1,` and the
    Base64 of HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`. The id stays the same over retries.
    """

    secret: str = field(default="", repr=False)
    """Signs requests: `whsec_` and Base64, or any text."""
    secret_file: str = ""
    """The same, in a file."""
    max_alerts: int = 0
    """How many alerts one message holds at most (0: all); `truncatedAlerts` counts the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_most_one(self.secret, self.secret_file, "secret")
        if self.max_alerts < 0:
            raise ValueError("max_alerts must not be negative")
        if self.secret:
            signing_key(self.secret)

    async def send(self, notification: Notification) -> None:
        """Post a notification. Raises Refused or Retry."""
        body = json.dumps(self._cut(notification.payload), ensure_ascii=False, allow_nan=False).encode()
        headers = {**self.all_headers(), "webhook-id": notification.id}
        if key := secret(self.secret, self.secret_file, "secret"):
            stamp = str(int(time.time()))
            headers["webhook-timestamp"] = stamp
            try:
                headers["webhook-signature"] = signature(key, notification.id, stamp, body)
            except ValueError as error:
                raise Retry(str(error)) from None
        await self.post(self.address(), body, headers)

    def _cut(self, payload: Mapping[str, object]) -> Mapping[str, object]:
        alerts = cast("Sequence[object]", payload["alerts"])
        if not self.max_alerts or len(alerts) <= self.max_alerts:
            return payload
        return {**payload, "alerts": alerts[: self.max_alerts], "truncatedAlerts": len(alerts) - self.max_alerts}


def signing_key(text: str) -> bytes:
    """Return the key that a secret stands for. Raises ValueError where `whsec_` is not followed by Base64."""
    if not text.startswith("whsec_"):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise ValueError("secret begins with whsec_ but no Base64 follows") from None


def signature(text: str, name: str, stamp: str, body: bytes) -> str:
    """Return the signature of one request: `v1,` and Base64 of HMAC-SHA256 over id, time and body."""
    digest = hmac.new(signing_key(text), f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()
