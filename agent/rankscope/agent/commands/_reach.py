"""How commands talk to the agent on this machine: its address, one request, and what to say when it is not there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from rankscope.agent.commands._failure import UNREACHABLE, WRONG_USE, Failure

DEFAULT = "127.0.0.1:9780"
TIMEOUT = 10.0  # seconds


def default_address() -> str:
    """Return where the agent is if nobody says otherwise: RANKSCOPE_HTTP, what it was told to listen on, or 9780."""
    return os.environ.get("RANKSCOPE_HTTP") or os.environ.get("RANKSCOPE_HTTP__LISTEN") or DEFAULT


def request(agent: str, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return what the agent answers. Raises Failure, with what to do, when it does not or says no."""
    try:
        answer = httpx.request(method, url(agent) + path, json=body, timeout=TIMEOUT, trust_env=environment(agent))
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise unanswered(agent, error) from None
    return content(agent, answer)


def url(agent: str) -> str:
    return (agent if "://" in agent else f"http://{agent}").rstrip("/")


def environment(agent: str) -> bool:
    """Tell whether the environment's proxies (and authorities) are for this address: no proxy leads to this machine."""
    try:
        parts = urlsplit(url(agent))
    except ValueError:
        return True
    host = parts.hostname or ""
    return parts.scheme != "http" or not (host in ("localhost", "::1") or host.startswith("127."))


def unanswered(agent: str, error: httpx.TransportError | httpx.InvalidURL) -> Failure:
    """Return what to say when no answer came."""
    where = _without_password(url(agent))
    if isinstance(error, httpx.InvalidURL):
        return Failure(f"{where} is no address: write host:port or http://host:port", WRONG_USE)
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Failure(f"{where}: its certificate is not trusted: name the authority's file in SSL_CERT_FILE")
    reason = "did not answer in time" if isinstance(error, httpx.TimeoutException) else "no agent answers"
    return Failure(f"{where}: {reason}: start one with `rankscope agent`, or name it with --agent")


def content(agent: str, answer: httpx.Response) -> dict[str, Any]:
    """Return what an answer that was read says. Raises Failure, with what to do, when it is a no."""
    where = _without_password(url(agent))
    if answer.status_code in (401, 403):
        raise Failure(f"{where}: not allowed: put a name and password into --agent http://name:password@host:port")
    try:
        said: object = answer.json()
    except ValueError:
        raise Failure(f"{where} is not Rankscope's agent: it answered {answer.status_code} without JSON") from None
    found = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
    if not answer.is_success:
        wrong = WRONG_USE if answer.status_code < 500 else UNREACHABLE
        raise Failure(str(found.get("error") or f"{where} answered {answer.status_code}"), wrong)
    return found


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the address"
    return f"{parts.hostname or ''}{port}"
