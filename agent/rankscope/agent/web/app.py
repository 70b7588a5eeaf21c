"""The agent's web application: metrics, health, API and page."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from rankscope.agent.web import api, operations, rulebook, stacks
from rankscope.agent.web.answers import error
from rankscope.agent.web.guard import Guard
from rankscope.agent.web.stream import Stream
from rankscope.agent.web.view import View

__all__ = ["View", "create"]

STATIC = Path(__file__).parent / "static"


def create(view: View) -> Starlette:
    """Return the application that shows what `view` sees."""

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    return Starlette(
        routes=[
            Route("/", page),
            *operations.routes(view),
            *api.routes(view),
            *stacks.routes(view),
            *rulebook.routes(),
            *Stream(view).routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(Guard), Middleware(GZipMiddleware, minimum_size=1024, compresslevel=1)],
        exception_handlers={HTTPException: _refuse},
    )


async def _refuse(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)
    answer = error(refusal.status_code, f"{request.method} {request.url.path[:200]}: {refusal.detail}")
    answer.headers.update(refusal.headers or {})
    return answer
