"""How commands follow the agent's stream, also over its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from rankscope.agent.commands._failure import UNREACHABLE, Failure
from rankscope.agent.commands._reach import TIMEOUT, content, environment, unanswered, url

PATH = "/api/v1/stream"
SILENCE = 5.0  # seconds without a snapshot, of which one comes each second, after which the agent counts as lost
AGAIN = 1.0  # seconds between two tries


@dataclass(frozen=True, slots=True)
class Lost:
    """The agent went away: why."""

    reason: str


async def snapshots(agent: str) -> AsyncGenerator[dict[str, Any], None]:
    """Yield what the agent's stream says until it ends. Raises Failure when there is none, or it breaks."""
    try:
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(TIMEOUT, read=SILENCE), trust_env=environment(agent)) as client,
            client.stream("GET", url(agent) + PATH) as answer,
        ):
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                await answer.aread()
                content(agent, answer)
                raise Failure("the agent has no stream: it is older than this command")
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise unanswered(agent, error) from None
    except ValueError:
        raise Failure("what the agent sends is no JSON: is something between it and here?") from None


async def follow(agent: str) -> AsyncGenerator[dict[str, Any] | Lost, None]:
    """Yield snapshots, and each time that the agent cannot be reached, why; for ever.

    Raises Failure when it cannot be reached to begin with.
    """
    met = False
    while True:
        try:
            async with aclosing(snapshots(agent)) as following:
                async for snapshot in following:
                    met = True
                    yield snapshot
            reason = Failure("the agent ends", UNREACHABLE)
        except Failure as failure:
            reason = failure
        if not met:
            raise reason
        yield Lost(reason.message)
        await asyncio.sleep(AGAIN)
