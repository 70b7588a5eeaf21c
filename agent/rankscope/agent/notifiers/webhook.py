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

import httpx

from rankscope.agent.component import Notification, Retry
from rankscope.agent.notifiers._http import HttpNotifier, at_most_one, secret


@dataclass(kw_only=True)
class Webhook(HttpNotifier):
    """Posts alerts as JSON in Alertmanager's webhook format, version 4.

    With a `secret`, requests are signed as standardwebhooks.com describes it: `webhook-signature` is `v1,` and the
    Base64 of HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`. The id stays the same over retries.
    """

    secret: str = field(default="", repr=False)
    """Signs requests: `whsec_` and Base64, or any text."""
    secret_file: str = ""
    """The same, in a file."""
    headers: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    """More headers."""
    bearer_token: str = field(default="", repr=False)
    """Sent as `Authorization: Bearer …`."""
    bearer_token_file: str = ""
    """The same, in a file."""
    username: str = ""
    """For basic authentication."""
    password: str = field(default="", repr=False)
    """For basic authentication."""
    password_file: str = ""
    """The same, in a file."""
    max_alerts: int = 0
    """How many alerts one message holds at most (0: all); `truncatedAlerts` counts the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("secret", "bearer_token", "password"):
            at_most_one(getattr(self, name), getattr(self, f"{name}_file"), name)
        if self.username and (self.bearer_token or self.bearer_token_file):
            raise ValueError("give either bearer_token or username and password, not both")
        if self.max_alerts < 0:
            raise ValueError("max_alerts must not be negative")
        if any(
            not f"{name}{value}".isascii() or not f"{name}{value}".isprintable() for name, value in self.headers.items()
        ):
            raise ValueError("headers must be printable ASCII")
        if self.secret:
            signing_key(self.secret)

    async def send(self, notification: Notification) -> None:
        """Post a notification. Raises Refused or Retry."""
        body = json.dumps(self._cut(notification.payload), ensure_ascii=False, allow_nan=False).encode()
        headers = {**self.headers, "webhook-id": notification.id}
        if key := secret(self.secret, self.secret_file, "secret"):
            stamp = str(int(time.time()))
            headers["webhook-timestamp"] = stamp
            try:
                headers["webhook-signature"] = signature(key, notification.id, stamp, body)
            except ValueError as error:
                raise Retry(str(error)) from None
        auth: httpx.Auth | None = None
        if token := secret(self.bearer_token, self.bearer_token_file, "bearer_token"):
            headers["Authorization"] = f"Bearer {token}"
        elif self.username:
            auth = httpx.BasicAuth(self.username, secret(self.password, self.password_file, "password"))
        await self.post(self.address(), body, headers, auth)

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
