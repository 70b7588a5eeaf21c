"""What the rules are, for people who follow an alert's runbook link to the page."""

from __future__ import annotations

import inspect

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rankscope.agent.component import discover, summary
from rankscope.agent.web.answers import answer, error


def routes() -> list[Route]:
    async def rules(request: Request) -> Response:
        return answer({"rules": [{"name": name, "summary": summary(rule)} for name, rule in sorted(_rules().items())]})

    async def rule(request: Request) -> Response:
        name = request.path_params["name"]
        found = _rules().get(name)
        if found is None:
            return error(404, "there is no such rule: /api/v1/rules lists them")
        return answer(
            {
                "name": name,
                "summary": summary(found),
                "documentation": inspect.getdoc(found) or "",
                "needs": list(getattr(found, "needs", ())),
            }
        )

    return [Route("/api/v1/rules", rules), Route("/api/v1/rules/{name}", rule)]


def _rules() -> dict[str, type]:
    return {rule.__name__: rule for rule in discover("rankscope.agent.rules").values()}
