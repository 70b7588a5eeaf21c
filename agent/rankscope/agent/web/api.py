"""The JSON API: status, runs, curves, alerts and silences."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rankscope.agent.web.answers import BodyTooLarge, answer, body, error, integer, no_run
from rankscope.agent.web.archive import Archive
from rankscope.agent.web.curves import Wanted, archived, curves, windows
from rankscope.agent.web.snapshot import find, newest_first, run_details, run_json, status
from rankscope.agent.web.view import View

POINTS, MOST_POINTS = 1000, 10_000
STEPS = 2**62


def routes(view: View) -> list[Route]:
    archive = Archive(view.runs_dir, view.node.roles)

    async def agent_status(request: Request) -> Response:
        return answer(status(view))

    async def runs(request: Request) -> Response:
        """Those that are here now, and behind them, as they were left, those that are over."""
        now = view.now()
        here = [run_json(view.node, run, now) for run in newest_first(view.node)]
        names = {run["id"] for run in here}
        over = [run for run in await asyncio.to_thread(archive.runs) if run["id"] not in names]
        return answer({"runs": here, "archive": over})

    async def run(request: Request) -> Response:
        if (found := find(view.node, request.path_params["id"])) is not None:
            return answer(run_details(view.node, found, view.now()))
        over = await asyncio.to_thread(archive.find, request.path_params["id"])
        return answer(over) if over is not None else no_run()

    async def series(request: Request) -> Response:
        try:
            wanted = _wanted(request)
        except ValueError as wrong:
            return error(400, str(wrong))
        if (found := find(view.node, request.path_params["id"])) is not None:
            parts = windows(found, wanted)
            folders: dict[int, Path] = {}
            if any(part.count > len(part.points.step) for part in parts):
                folders = await asyncio.to_thread(archive.ranks, found.project, found.name)
            drawn = await asyncio.to_thread(curves, parts, wanted, folders, archive)
            return answer({"run": found.name, "series": drawn})
        over = await asyncio.to_thread(archive.find, request.path_params["id"])
        if over is None:
            return no_run()
        return answer({"run": over["id"], "series": await asyncio.to_thread(archived, over, wanted, archive)})

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


def _wanted(request: Request) -> Wanted:
    query = request.query_params
    name = query.get("name", "loss")
    ranks = tuple(integer(rank, 0, 0, 2**31, "rank") for rank in query.getlist("rank")[:1024])
    first = integer(query["from"], 0, -STEPS, STEPS, "from") if query.get("from") else None
    last = integer(query["to"], 0, -STEPS, STEPS, "to") if query.get("to") else None
    return Wanted(name, ranks, first, last, integer(query.get("points"), POINTS, 3, MOST_POINTS, "points"))
