"""Answers of the API: JSON in which NaN and infinities are strings, and errors of one line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import cast

from starlette.requests import Request
from starlette.responses import Response

BODY_LIMIT = 65_536  # bytes of a request's body


class BodyTooLarge(Exception):
    """A request's body is longer than it may be."""


def number(value: float) -> float | str:
    """Return a number as JSON carries it: `NaN`, `Infinity` and `-Infinity` are strings."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def plain(value: object) -> object:
    """Return a value with all its numbers as JSON carries them."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in cast("Sequence[object]", value)]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def dump(content: object) -> str:
    return json.dumps(plain(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def answer(content: object, status: int = 200) -> Response:
    body = dump(content).encode("utf-8", "replace")
    return Response(body, status, media_type="application/json", headers={"Cache-Control": "no-store"})


def error(status: int, message: str) -> Response:
    return answer({"error": message}, status)


def no_run() -> Response:
    return error(404, "there is no such run here: /api/v1/runs lists them")


async def body(request: Request) -> bytes:
    """Return the request's body. Raises BodyTooLarge as soon as it is longer than BODY_LIMIT."""
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > BODY_LIMIT:
            raise BodyTooLarge
    return bytes(received)


def integer(text: str | None, default: int, low: int, high: int, name: str) -> int:
    """Return a query parameter as a whole number within bounds. Raises ValueError in words for the caller."""
    if text is None or text == "":
        return default
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{name}: not a whole number") from None
    if not low <= value <= high:
        raise ValueError(f"{name}: must lie between {low} and {high}")
    return value
