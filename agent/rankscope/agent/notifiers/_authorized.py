"""Receivers that ask who is there: a bearer token, or a name and a password."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from rankscope.agent.notifiers._http import HttpNotifier, at_most_one, secret


@dataclass(kw_only=True)
class Authorized(HttpNotifier):
    """A receiver over HTTP that may ask for a token or a password, and for headers of its own."""

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

    def __post_init__(self) -> None:
        super().__post_init__()
        at_most_one(self.bearer_token, self.bearer_token_file, "bearer_token")
        at_most_one(self.password, self.password_file, "password")
        if self.username and (self.bearer_token or self.bearer_token_file):
            raise ValueError("give either bearer_token or username and password, not both")
        if not all(
            f"{name}{value}".isascii() and f"{name}{value}".isprintable() for name, value in self.headers.items()
        ):
            raise ValueError("headers must be printable ASCII")

    def all_headers(self) -> dict[str, str]:
        """Return the headers to send now. Raises Retry where a secret's file cannot be read."""
        headers = dict(self.headers)
        if token := secret(self.bearer_token, self.bearer_token_file, "bearer_token"):
            headers["Authorization"] = f"Bearer {token}"
            self.hide(token)
        elif self.username:
            password = secret(self.password, self.password_file, "password")
            pair = base64.b64encode(f"{self.username}:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
            self.hide(password, pair)
        self.hide(*self.headers.values())
        return headers
