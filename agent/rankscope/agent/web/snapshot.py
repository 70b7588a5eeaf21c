"""The state as JSON: what the page and the terminal show, of the node and of its runs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping

from rankscope.agent.model import Histogram
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.readings import exit_reason, target_steps
from rankscope.agent.runs.state import Node, Run
from rankscope.agent.telemetry import agent_version
from rankscope.agent.web.recent import gpu_states, loss_curve, phase_shares
from rankscope.agent.web.view import View

ROLES = ("loss", "val_loss", "lr", "grad_norm", "samples_per_second", "tokens_per_second")
RESOLVED = 20  # alerts that are over and still shown
PACE = 50  # steps over which a rank's step time is told

_GPU = {
    "gpu_utilization_ratio": "utilization",
    "gpu_memory_used_bytes": "memory_used_bytes",
    "gpu_memory_size_bytes": "memory_size_bytes",
    "gpu_power_watts": "power_watts",
    "gpu_power_limit_watts": "power_limit_watts",
    "gpu_temperature_slowdown_celsius": "temperature_slowdown_celsius",
}
_SYSTEM = (
    "system_cpus",
    "system_load1",
    "system_memory_size_bytes",
    "system_memory_available_bytes",
    "system_boot_time_seconds",
)


def snapshot(view: View) -> dict[str, object]:
    """Return what is known now. Times are Unix seconds, durations seconds, ratios 0 to 1."""
    now = view.now()
    return {
        "time": now,
        **status(view),
        "gpus": gpus(view.node),
        "system": system(view.node),
        "runs": [run_json(view.node, run, now) for run in newest_first(view.node)],
        "alerts": view.alerts.active(),
        "resolved": view.alerts.recent()[:RESOLVED],
    }


def status(view: View) -> dict[str, object]:
    """Return the agent's own state: health of its samplers, what it dropped, what it exposes."""
    return {
        "hostname": view.node.hostname,
        "version": agent_version(),
        "started": view.telemetry.started,
        "ready": view.ready(),
        "series": view.telemetry.series,
        "dropped": view.telemetry.drops(),
        "samplers": {
            name: {
                "up": health.up,
                "seconds": health.seconds,
                "last_success": health.last_success,
                "errors": health.errors,
                "failure": health.failure,
            }
            for name, health in view.telemetry.samplers.items()
        },
    }


def find(node: Node, wanted: str) -> Run | None:
    """Return the run of this name or identity."""
    return next((run for run in newest_first(node) if wanted in (run.name, run.run_id)), None)


def newest_first(node: Node) -> list[Run]:
    return sorted((run for run in node.runs.values() if run.ranks), key=lambda run: -run.started)


def gpus(node: Node) -> list[dict[str, object]]:
    """Return the node's GPUs in the order of their index, each with the ranks that run on it."""
    found: dict[str, dict[str, object]] = {}
    throttled: defaultdict[str, list[str]] = defaultdict(list)
    ranks: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    for samples in tuple(node.samples.values()):
        for sample in samples:
            name = sample.metric.name
            if not name.startswith("gpu_") or isinstance(sample.value, Histogram):
                continue
            labels = dict(zip(sample.metric.labels, sample.labels, strict=False))
            uuid = labels.get("uuid", "")
            gpu = found.setdefault(uuid, {"uuid": uuid, "ranks": ranks[uuid], "throttled": throttled[uuid]})
            if name == "gpu_info":
                gpu |= {"gpu": labels["gpu"], "name": labels["name"], "simulated": labels.get("simulated") == "true"}
            elif name in _GPU:
                gpu[_GPU[name]] = sample.value
            elif name == "gpu_temperature_celsius" and labels.get("sensor") == "gpu":
                gpu["temperature_celsius"] = sample.value
            elif name == "gpu_up":
                gpu["up"] = bool(sample.value)
            elif name == "gpu_throttle_active" and sample.value:
                throttled[uuid].append(labels.get("reason", ""))
    for uuid, shares in gpu_states(node).items():
        if uuid in found:
            found[uuid]["states"] = shares
    devices = Devices(node)
    for run, rank in node.ranks():
        device = devices.of(rank)
        if device is not None and device.uuid in found and rank.goodbye is None:
            ranks[device.uuid].append({"run": run.name, "rank": rank.info.key.rank})
    return sorted((gpu for gpu in found.values() if "gpu" in gpu), key=lambda gpu: _index(str(gpu["gpu"])))


def _index(gpu: str) -> tuple[int, str]:
    return (int(gpu) if gpu.isdigit() else 1_000_000, gpu)


def system(node: Node) -> Mapping[str, float]:
    latest = ((name, node.window(name)) for name in _SYSTEM)
    return {name.removeprefix("system_"): window.last for name, window in latest if window is not None and len(window)}


def run_state(run: Run, now: float) -> str:
    """Return running, silent, failed or finished: the first that holds for any of its ranks here."""
    states = {rank.state(now) for rank in run.ranks.values()}
    return next(state for state in ("running", "silent", "failed", "finished") if state in states)


def run_json(node: Node, run: Run, now: float) -> dict[str, object]:
    devices = Devices(node)
    return {
        "id": run.name,
        "run_id": run.run_id,
        "project": run.project,
        "name": run.info.name,
        "state": run_state(run, now),
        "started": run.started,
        "last_event": run.last_event,
        "world_size": run.info.world_size,
        "attempt": run.info.attempt,
        "target_steps": target_steps(run),
        "ranks": [rank_json(rank, devices, now) for _, rank in sorted(run.ranks.items())],
    }


def rank_json(rank: Rank, devices: Devices, now: float) -> dict[str, object]:
    device = devices.of(rank)
    recent = rank.step_seconds.value[-PACE:]
    found: dict[str, object] = {
        "rank": rank.info.key.rank,
        "state": rank.state(now),
        "connected": rank.connected,
        "last_seen": rank.last_seen,
        "pid": rank.info.pid,
        "gpu": device.gpu if device else None,
        "step": rank.step,
        "last_step_time": rank.last_step_time or None,
        "step_seconds": statistics.median(recent.tolist()) if len(recent) else None,
        "phase": rank.heartbeat.phase if rank.heartbeat and rank.goodbye is None else None,
        "phase_seconds": dict(rank.phase_seconds),
        "phase_shares": phase_shares(rank, PACE),
        "exit": exit_reason(rank),
    }
    for role in ROLES:
        series = rank.role(role)
        if series is not None and len(series):
            found[role] = series.last
            if role == "loss":
                found["loss_curve"] = loss_curve(series)
    return found


def run_details(node: Node, run: Run, now: float) -> dict[str, object]:
    """Return a run with what its ranks said of it and the names of its series."""
    names: dict[str, None] = {}
    phases: dict[str, None] = {}
    for _, rank in sorted(run.ranks.items()):
        names.update(dict.fromkeys(rank.series))
        phases.update(dict.fromkeys(rank.phases))
    info = run.info
    roles = {role: series.name for role in ROLES if (series := run.ranks[min(run.ranks)].role(role)) is not None}
    return {
        **run_json(node, run, now),
        "config": info.config,
        "tags": info.tags,
        "notes": info.notes,
        "environment": info.environment,
        "job_id": info.job_id,
        "launcher": info.launcher,
        "series": list(names),
        "phases": list(phases),
        "roles": roles,
    }
