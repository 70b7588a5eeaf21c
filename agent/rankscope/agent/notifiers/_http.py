"""What notifiers over HTTP share: address, secrets, one POST, and what its answer means."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

import httpx

from rankscope.agent.component import Notification, Refused, Retry
from rankscope.agent.model import SEVERITIES, Seconds, Severity

# Both would write addresses and headers, which hold secrets, into the log.
logging.getLogger("httpx").setLevel(logging.WARNING)
logging.getLogger("httpcore").setLevel(logging.WARNING)

USER_AGENT = f"rankscope/{version('rankscope')}"


def secret(value: str, file: str, what: str) -> str:
    """Return a secret that is given itself or as the name of a file. Raises Retry where the file cannot be read.

    Files are read anew for every notification: a secret that is replaced needs no restart.
    """
    if not file:
        return value
    try:
        return Path(file).read_text().strip()
    except (OSError, ValueError) as error:
        raise Retry(f"{what}_file cannot be read: {type(error).__name__}") from None


def one_of(value: str, file: str, what: str) -> None:
    """Raise ValueError unless exactly one of `what` and `what`_file is given."""
    if bool(value) == bool(file):
        raise ValueError(f"give either {what} or {what}_file" if value else f"{what} is missing (or {what}_file)")


def at_most_one(value: str, file: str, what: str) -> None:
    if value and file:
        raise ValueError(f"give either {what} or {what}_file, not both")


def place(url: str) -> str:
    """Return the part of an address that holds no secret: scheme, host and port."""
    parts = urlsplit(url)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname or '?'}{port}"


@dataclass(kw_only=True)
class HttpNotifier:
    """A receiver that is reached with POST requests to one address."""

    url: str = field(default="", repr=False)
    """Where to post to."""
    url_file: str = ""
    """The same, in a file: addresses of chat services are secrets."""
    min_severity: Severity = "info"
    """Alerts below this severity are not sent: info, warning or critical."""
    send_resolved: bool = True
    """Whether to tell that an alert is over."""
    timeout: Seconds = 10.0
    """How long one request may take."""
    ca_file: str = ""
    """Certificate authorities to trust instead of the system's."""

    def __post_init__(self) -> None:
        one_of(self.url, self.url_file, "url")
        if self.url:
            check_url(self.url)
        if self.min_severity not in SEVERITIES:
            raise ValueError(f"min_severity must be one of {', '.join(SEVERITIES)}")
        self._client: httpx.AsyncClient | None = None
        self._hidden: set[str] = set()  # what must not be seen in an error

    async def send(self, notification: Notification) -> None:
        """Deliver. Raises Refused or Retry."""
        raise NotImplementedError

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def address(self) -> str:
        """Return the address now. Raises Retry where its file cannot be read, Refused where it holds none."""
        url = secret(self.url, self.url_file, "url")
        try:
            check_url(url)
        except ValueError as error:
            raise Refused(str(error)) from None
        self.hide(url)
        return url

    async def post(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Post JSON; return a 2xx answer. Raises Retry for 5xx, 429 and no answer, Refused for everything else."""
        if self._client is None:
            self._client = self._make_client()
        where = place(url)
        try:
            response = await self._client.post(
                url, content=body, headers={"Content-Type": "application/json", **(headers or {})}
            )
        except httpx.TimeoutException:
            raise Retry(f"{where} did not answer in {self.timeout:g} s") from None
        except httpx.InvalidURL:
            raise Refused(f"{where} is no address") from None
        except (httpx.TransportError, ssl.SSLError) as error:
            raise Retry(f"{where} cannot be reached: {_reason(error)}") from None
        if response.is_success:
            return response
        status = f"{where} answered {response.status_code}"
        if response.status_code == 429 or response.status_code >= 500:
            raise Retry(status, retry_after(response.headers.get("Retry-After", "")))
        if response.is_redirect:
            raise Refused(f"{status}, a redirection: configure the final address")
        raise Refused(f"{status}: {self.excerpt(response)}")

    def hide(self, *secrets: str) -> None:
        """Keep these out of every error, whoever repeats them: servers like to quote what they were sent."""
        self._hidden.update(text for text in secrets if len(text) > 3)

    def excerpt(self, response: httpx.Response) -> str:
        """Return the beginning of what a server answered, with nothing in it that was a secret."""
        text = " ".join(response.text[:2000].split())
        parts = urlsplit(str(response.request.url))
        query = [value for _, value in parse_qsl(parts.query)]
        for hidden in sorted({*self._hidden, *parts.path.split("/"), *query, parts.query}, key=len, reverse=True):
            if len(hidden) > 3:
                text = text.replace(hidden, "…").replace(quote(hidden), "…")
        return text[:200] or response.reason_phrase or "no reason given"

    def _make_client(self) -> httpx.AsyncClient:
        try:
            verify = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else True
        except (OSError, ssl.SSLError) as error:
            raise Retry(f"ca_file cannot be used: {type(error).__name__}") from None
        return httpx.AsyncClient(timeout=self.timeout, verify=verify, headers={"User-Agent": USER_AGENT})


def check_url(url: str) -> None:
    """Raise ValueError, without the address in its text, unless this is an http(s) address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise ValueError("url must be an address such as https://example.org/hook")


def retry_after(header: str) -> float | None:
    """Return the seconds that a Retry-After header asks for (a number, or a date), or None."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return None


def _reason(error: Exception) -> str:
    """Return what went wrong in words that hold no address: the operating system's where there are any."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
