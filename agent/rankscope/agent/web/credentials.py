"""TLS and basic auth, as Prometheus' web configuration file says them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import bcrypt
import yaml
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

CLIENT_AUTH = {
    "": ssl.CERT_NONE,
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_OPTIONAL,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
KEYS = {"tls_server_config", "basic_auth_users", "http_server_config", "rate_limit"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a server shows and what it asks for. `users`: bcrypt hashes by name."""

    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth: ssl.VerifyMode = ssl.CERT_NONE
    users: dict[str, str] = field(default_factory=dict[str, str])


def load(path: Path) -> Credentials:
    """Return what a web configuration file says. Raises ValueError in one line, and OSError."""
    value: object = yaml.safe_load(path.read_text()) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected tls_server_config or basic_auth_users")
    table = cast("dict[str, object]", value)
    unknown = sorted(table.keys() - KEYS)
    if unknown:
        raise ValueError(f"{path}: {unknown[0]}: unknown, known: {', '.join(sorted(KEYS))}")
    tls = cast("dict[str, str]", table.get("tls_server_config") or {})
    users = cast("dict[str, str]", table.get("basic_auth_users") or {})
    if bool(tls.get("cert_file")) != bool(tls.get("key_file")):
        raise ValueError(f"{path}: tls_server_config needs both cert_file and key_file")
    auth = tls.get("client_auth_type", "RequireAndVerifyClientCert" if tls.get("client_ca_file") else "")
    if auth not in CLIENT_AUTH:
        raise ValueError(f"{path}: client_auth_type: {auth!r} is none of {', '.join(filter(None, CLIENT_AUTH))}")
    if CLIENT_AUTH[auth] is not ssl.CERT_NONE and not tls.get("client_ca_file"):
        raise ValueError(f"{path}: client_auth_type {auth} needs client_ca_file")
    for name, hashed in users.items():
        if not str(hashed).startswith(("$2a$", "$2b$", "$2y$")):
            raise ValueError(
                f"{path}: basic_auth_users.{name}: no bcrypt hash: make one with `htpasswd -nBC 10 {name}`"
            )
    if not tls and not users:
        raise ValueError(f"{path}: says neither TLS nor users")
    beside = path.parent  # paths are relative to the file, as in Prometheus
    found = {key: str(beside / tls[key]) if tls.get(key) else "" for key in ("cert_file", "key_file", "client_ca_file")}
    return Credentials(**found, client_auth=CLIENT_AUTH[auth], users=dict(users))


class BasicAuth:
    """Asks everyone for a name and a password."""

    def __init__(self, app: ASGIApp, users: dict[str, str]) -> None:
        self._app = app
        self._users = users
        self._known: set[bytes] = set()  # digests of what was right before: bcrypt is slow, and meant to be

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._right(Headers(scope=scope).get("authorization", "")):
            refusal = PlainTextResponse("Unauthorized\n", 401, {"WWW-Authenticate": 'Basic realm="rankscope"'})
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _right(self, header: str) -> bool:
        kind, _, encoded = header.partition(" ")
        try:
            name, _, password = base64.b64decode(encoded, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return False
        hashed = self._users.get(name.decode("utf-8", "replace"))
        if kind.lower() != "basic" or hashed is None or len(password) > 72:
            return False
        digest = hashlib.sha256(name + b":" + password).digest()
        if digest not in self._known and bcrypt.checkpw(password, hashed.encode()):
            self._known.add(digest)
        return digest in self._known
