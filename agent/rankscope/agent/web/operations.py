"""Metrics, health and reload: what Prometheus, systemd and Kubernetes ask for."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from rankscope.agent.web.view import View


def routes(view: View) -> list[Route]:
    async def metrics(request: Request) -> Response:
        page, content_type = view.render(request.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": content_type})

    async def healthy(request: Request) -> Response:
        return PlainTextResponse("Rankscope is healthy.\n")

    async def ready(request: Request) -> Response:
        if view.ready():
            return PlainTextResponse("Rankscope is ready.\n")
        return PlainTextResponse("Rankscope starts or ends.\n", 503)

    async def reload(request: Request) -> Response:
        refused = view.reload()
        if refused is None:
            return PlainTextResponse("Configuration read again.\n")
        return PlainTextResponse(f"The old configuration stays: {refused}\n", 500)

    return [
        Route("/metrics", metrics),
        Route("/-/healthy", healthy),
        Route("/-/ready", ready),
        Route("/-/reload", reload, methods=["POST", "PUT"]),
    ]
