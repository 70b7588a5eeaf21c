"""Reads what the agent's stream says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias, cast

from rankscope.agent.terminal.seen import Alert, Gpu, Rank, Run, Seen

Json: TypeAlias = Mapping[str, object]


def seen(said: Json) -> Seen:
    """Read one snapshot of `/api/v1/stream`; what an older agent does not say is unknown."""
    samplers = {name: _table(each) for name, each in _table(said.get("samplers")).items()}
    dropped = {name: _whole(count) for name, count in _table(said.get("dropped")).items()}
    return Seen(
        time=_real(said.get("time")) or 0.0,
        hostname=text(said.get("hostname")),
        version=text(said.get("version")),
        started=_real(said.get("started")) or 0.0,
        ready=said.get("ready") is not False,
        blind={text(n): text(each.get("failure")) for n, each in samplers.items() if each.get("up") is False},
        dropped={text(reason): count for reason, count in dropped.items() if count},
        system=_reals(said.get("system")),
        gpus=tuple(map(_gpu, _tables(said.get("gpus")))),
        runs=tuple(map(_run, _tables(said.get("runs")))),
        alerts=tuple(map(_alert, _tables(said.get("alerts")))),
        resolved=tuple(map(_alert, _tables(said.get("resolved")))),
    )


def text(value: object) -> str:
    """Return a value as text without what a terminal would obey; None is empty."""
    return "" if value is None else "".join(c if c.isprintable() else " " for c in str(value))


def _gpu(said: Json) -> Gpu:
    ranks: dict[str, list[int]] = {}
    for each in _tables(said.get("ranks")):
        ranks.setdefault(text(each.get("run")), []).append(_whole(each.get("rank")))
    return Gpu(
        index=text(said.get("gpu")),
        name=text(said.get("name")),
        simulated=said.get("simulated") is True,
        up=said.get("up") is not False,
        busy=_real(said.get("utilization")),
        memory_used=_real(said.get("memory_used_bytes")),
        memory_size=_real(said.get("memory_size_bytes")),
        watts=_real(said.get("power_watts")),
        watts_limit=_real(said.get("power_limit_watts")),
        celsius=_real(said.get("temperature_celsius")),
        celsius_slowdown=_real(said.get("temperature_slowdown_celsius")),
        throttled=tuple(map(text, _list(said.get("throttled")))),
        states=_reals(said.get("states")),
        ranks={run: tuple(sorted(numbers)) for run, numbers in ranks.items()},
    )


def _run(said: Json) -> Run:
    return Run(
        id=text(said.get("id")),
        project=text(said.get("project")),
        state=text(said.get("state")),
        last_event=_real(said.get("last_event")) or 0.0,
        world_size=_whole(said.get("world_size")),
        attempt=_whole(said.get("attempt")),
        target_steps=_real(said.get("target_steps")),
        ranks=tuple(map(_rank, _tables(said.get("ranks")))),
    )


def _rank(said: Json) -> Rank:
    curve = (_real(value) for value in _list(said.get("loss_curve")))
    return Rank(
        number=_whole(said.get("rank")),
        state=text(said.get("state")),
        connected=said.get("connected") is not False,
        exit=text(said.get("exit")),
        gpu=text(said.get("gpu")),
        step=_real(said.get("step")),
        step_seconds=_real(said.get("step_seconds")),
        last_step_time=_real(said.get("last_step_time")),
        last_seen=_real(said.get("last_seen")),
        phase=text(said.get("phase")),
        shares=_reals(said.get("phase_shares")),
        loss=_real(said.get("loss")),
        loss_curve=tuple(value for value in curve if value is not None),
        val_loss=_real(said.get("val_loss")),
        lr=_real(said.get("lr")),
        grad_norm=_real(said.get("grad_norm")),
    )


def _alert(said: Json) -> Alert:
    labels, annotations = _table(said.get("labels")), _table(said.get("annotations"))
    cause = next(iter(_tables(said.get("causes"))), _table(None))
    return Alert(
        name=text(labels.get("alertname")),
        severity=text(labels.get("severity")),
        state=text(said.get("state")),
        silenced=bool(_list(said.get("silencedBy"))),
        since=_moment(said.get("startsAt") or said.get("activeAt")),
        until=_moment(said.get("endsAt")),
        project=text(labels.get("project")),
        run=text(labels.get("run")),
        gpu=text(labels.get("gpu")),
        ranks=tuple(_whole(rank) for rank in _list(said.get("ranks"))),
        summary=text(annotations.get("summary")),
        cause=text(cause.get("cause")),
        evidence=text(cause.get("evidence")),
        fix=text(cause.get("fix")),
    )


def _moment(value: object) -> float | None:
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp() if value else None
    except ValueError:
        return None


def _real(value: object) -> float | None:
    """Return a number as the API writes it: what is not finite is a word there."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(str(value))


def _whole(value: object) -> int:
    number = _real(value)
    return int(number) if number is not None and math.isfinite(number) else 0


def _reals(value: object) -> dict[str, float]:
    found = {text(name): _real(each) for name, each in _table(value).items()}
    return {name: number for name, number in found.items() if number is not None}


def _table(value: object) -> Json:
    return cast("Json", value) if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list) else ()


def _tables(value: object) -> Iterable[Json]:
    return (cast("Json", each) for each in _list(value) if isinstance(each, Mapping))
