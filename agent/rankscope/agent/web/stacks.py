"""Asks the ranks of a run where they are."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rankscope.agent.web.answers import answer, error, integer, no_run
from rankscope.agent.web.snapshot import find
from rankscope.agent.web.view import View


def routes(view: View) -> list[Route]:
    async def stacks(request: Request) -> Response:
        """POST, since it makes the ranks do something; `?rank=` names some of them."""
        run = find(view.node, request.path_params["id"])
        if run is None:
            return no_run()
        try:
            ranks = {integer(rank, 0, 0, 2**31, "rank") for rank in request.query_params.getlist("rank")[:1024]}
        except ValueError as wrong:
            return error(400, str(wrong))
        if unknown := sorted(ranks - set(run.ranks)):
            return error(404, f"rank {unknown[0]} of {run.name} is not on this node")
        return answer({"run": run.name, "ranks": [found.as_json() for found in await view.where(run, ranks)]})

    return [Route("/api/v1/runs/{id}/stacks", stacks, methods=["POST"])]
