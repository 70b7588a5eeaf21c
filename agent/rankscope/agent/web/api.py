"""The JSON API: status, runs, curves, alerts and silences."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rankscope.agent.runs.state import Run
from rankscope.agent.web.answers import BodyTooLarge, answer, body, error, integer
from rankscope.agent.web.curves import Wanted, curves
from rankscope.agent.web.snapshot import newest_first, run_details, run_json, status
from rankscope.agent.web.view import View

POINTS, MOST_POINTS = 1000, 10_000
STEPS = 2**62


def routes(view: View) -> list[Route]:
    def find(request: Request) -> Run | None:
        wanted = request.path_params["id"]
        return next((run for run in newest_first(view.node) if wanted in (run.name, run.run_id)), None)

    async def agent_status(request: Request) -> Response:
        return answer(status(view))

    async def runs(request: Request) -> Response:
        now = view.now()
        return answer({"runs": [run_json(view.node, run, now) for run in newest_first(view.node)]})

    async def run(request: Request) -> Response:
        found = find(request)
        return answer(run_details(view.node, found, view.now())) if found else _no_run()

    async def series(request: Request) -> Response:
        found = find(request)
        if found is None:
            return _no_run()
        try:
            wanted = _wanted(request)
        except ValueError as wrong:
            return error(400, str(wrong))
        return answer({"run": found.name, "series": curves(found, wanted)})

    async def alerts(request: Request) -> Response:
        return answer({"alerts": view.alerts.active(), "resolved": view.alerts.recent()})

    async def silences(request: Request) -> Response:
        now = view.now()
        return answer({"silences": [silence.as_json(now) for silence in view.alerts.silences.list(now)]})

    async def silence(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return error(415, "send application/json")
        try:
            made = view.alerts.silences.create(json.loads(await body(request)), view.now())
        except BodyTooLarge:
            return error(413, "the body is too large")
        except KeyError:
            return error(404, "there is no such silence")
        except (ValueError, RecursionError) as wrong:
            return error(400, str(wrong) if not isinstance(wrong, json.JSONDecodeError) else "the body is not JSON")
        return answer({"silenceID": made.as_json(view.now())["id"]})

    async def expire(request: Request) -> Response:
        try:
            ended = view.alerts.silences.expire(request.path_params["id"], view.now())
        except KeyError:
            return error(404, "there is no such silence")
        return answer(ended.as_json(view.now()))

    return [
        Route("/api/v1/status", agent_status),
        Route("/api/v1/runs", runs),
        Route("/api/v1/runs/{id}", run),
        Route("/api/v1/runs/{id}/series", series),
        Route("/api/v1/alerts", alerts),
        Route("/api/v1/silences", silences),
        Route("/api/v1/silences", silence, methods=["POST"]),
        Route("/api/v1/silences/{id}", expire, methods=["DELETE"]),
    ]


def _no_run() -> Response:
    return error(404, "there is no such run here: /api/v1/runs lists them")


def _wanted(request: Request) -> Wanted:
    query = request.query_params
    name = query.get("name", "loss")
    ranks = tuple(integer(rank, 0, 0, 2**31, "rank") for rank in query.getlist("rank")[:1024])
    first = integer(query["from"], 0, -STEPS, STEPS, "from") if query.get("from") else None
    last = integer(query["to"], 0, -STEPS, STEPS, "to") if query.get("to") else None
    return Wanted(name, ranks, first, last, integer(query.get("points"), POINTS, 3, MOST_POINTS, "points"))
