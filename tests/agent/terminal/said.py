"""What an agent says, made up: as many GPUs, runs and ranks as a test wants."""

from __future__ import annotations

import math
from typing import Any

NOW = 1_790_000_000.0
RUN = "exp-1-0a1b2c3d"
PHASES = {"data": 0.1, "forward": 0.3, "backward": 0.5, "optimizer": 0.05}


def gpu(index: int, *, run: str = RUN, **more: Any) -> dict[str, Any]:
    return {
        "uuid": f"GPU-{index}",
        "gpu": str(index),
        "name": "NVIDIA H100 80GB HBM3",
        "simulated": False,
        "up": True,
        "utilization": 0.9 + index / 100,
        "memory_used_bytes": 60e9 + index * 1e8,
        "memory_size_bytes": 85_520_809_984.0,
        "power_watts": 600.0 + index,
        "power_limit_watts": 700.0,
        "temperature_celsius": 60.0 + index,
        "temperature_slowdown_celsius": 87.0,
        "throttled": [],
        "states": {"working": 0.95, "idle": 0.05},
        "ranks": [{"run": run, "rank": index}],
        **more,
    }


def rank(number: int, **more: Any) -> dict[str, Any]:
    return {
        "rank": number,
        "state": "running",
        "connected": True,
        "last_seen": NOW - 0.4,
        "pid": 1000 + number,
        "gpu": str(number % 8),
        "step": 1234 + number % 3,
        "last_step_time": NOW - 0.5,
        "step_seconds": 0.31,
        "phase": "forward",
        "phase_seconds": {},
        "phase_shares": PHASES,
        "exit": None,
        "loss": 2.1 + number / 1000,
        "loss_curve": [8 / (1 + i) for i in range(32)],
        "val_loss": 2.5,
        "lr": 3e-4,
        "grad_norm": 0.51,
        **more,
    }


def run(ranks: list[dict[str, Any]], name: str = RUN, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "run_id": "run-7",
        "project": "demo",
        "name": "exp-1",
        "state": "running",
        "started": NOW - 3600,
        "last_event": NOW - 0.4,
        "world_size": len(ranks),
        "attempt": 0,
        "target_steps": 10_000.0,
        "ranks": ranks,
        **more,
    }


def alert(name: str = "LossNaN", ranks: tuple[int, ...] = (5,), **more: Any) -> dict[str, Any]:
    return {
        "state": "firing",
        "labels": {"alertname": name, "severity": more.pop("severity", "critical"), "run": RUN, "project": "demo"},
        "annotations": {"summary": more.pop("summary", "loss is NaN at step 1234 (rank 5)")},
        "startsAt": "2026-09-21T13:12:20.000Z",  # a minute before NOW
        "endsAt": None,
        "silencedBy": [],
        "ranks": list(ranks),
        "causes": [
            {
                "cause": "a bad batch",
                "evidence": "at step 1234 only rank 5 had it; 7 other ranks had a finite loss",
                "fix": "look at the batch of step 1234 for empty, huge or NaN inputs and labels",
            }
        ],
        **more,
    }


def snapshot(gpus: int = 0, ranks: int = 0, **more: Any) -> dict[str, Any]:
    """Return a snapshot with so many healthy GPUs, and one run with so many healthy ranks."""
    return {
        "time": NOW,
        "hostname": "node-7",
        "version": "0.1.0",
        "started": NOW - 7980,
        "ready": True,
        "series": 100,
        "dropped": {"bad_payload": 0},
        "samplers": {"gpu": {"up": True, "failure": None}},
        "gpus": [gpu(i, ranks=[{"run": RUN, "rank": r} for r in range(i, ranks, gpus)]) for i in range(gpus)],
        "system": {"cpus": 96.0, "load1": 31.5, "memory_size_bytes": 2**40, "memory_available_bytes": 2**39},
        "runs": [run([rank(i) for i in range(ranks)])] if ranks else [],
        "alerts": [],
        "resolved": [],
        **more,
    }


def troubled(ranks: int = 64) -> dict[str, Any]:
    """Return eight GPUs and many ranks, some of which are in every kind of trouble."""
    made = snapshot(8, ranks, alerts=[alert(), alert("Straggler", (9,), severity="warning", summary="rank 9 is slow")])
    every = made["runs"][0]["ranks"]
    every[5] |= {"loss": "NaN", "loss_curve": [3.0, 2.5, "NaN"]}
    every[17] |= {"state": "failed", "exit": "signal", "connected": False}
    every[23] |= {"state": "silent", "last_seen": NOW - 45}
    every[40] |= {"last_step_time": NOW - 33, "phase": "eval"}
    made["gpus"][3] |= {"up": False, "states": {"dead": 1.0}, "utilization": None, "power_watts": None}
    made["gpus"][6] |= {"states": {"starved": 0.6, "working": 0.4}, "utilization": 0.4}
    made["gpus"][7] |= {"states": {"throttled": 0.9, "idle": 0.1}, "temperature_celsius": 86.0}
    made["samplers"]["kernel"] = {"up": False, "failure": "/dev/kmsg: Permission denied"}
    made["dropped"]["bad_payload"] = 12
    assert math.isfinite(NOW)
    return made
