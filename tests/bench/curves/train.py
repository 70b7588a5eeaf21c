"""Trains a task with a fault or an oddity in code, data, schedule or loader, and writes the record with its labels."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .models import Task, schedule

NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}


@dataclass
class Plan:
    """What is trained, and what goes wrong with it; steps count from 0."""

    name: str
    task: Task
    steps: int = 1000
    batch: int = 32
    rate: float = 1.0  # times the rate that suits
    schedule: str = "constant"
    optimizer: str = "adam"
    clip: float | None = 1.0
    every: int = 1  # steps between two records
    accumulate: int = 1
    evaluate: int = 100
    seconds: float = 0.2  # a step
    labels: list[dict[str, object]] = field(default_factory=list)
    edit_batch: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    edit_loss: Callable[[int, Tensor], Tensor] | None = None
    edit_model: Callable[[int, nn.Module, torch.optim.Optimizer], None] | None = None
    timing: Callable[[int, random.Random], dict[str, float]] | None = None
    pauses: dict[int, float] = field(default_factory=dict)  # seconds before a step
    back: dict[int, int] = field(default_factory=dict)  # at this step the run dies and goes on from that one
    ranks: Callable[[int, random.Random], list[float]] | None = None
    after_nan: int = 60
    scaler: bool = False
    momentum: float = 0.9


def train(plan: Plan, seed: int, folder: Path) -> Path:
    """Train, and write `<name>.jsonl` with a header that holds the labels."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    rows = list(_rows(plan, rng))
    healthy = not any(not label.get("optional") for label in plan.labels)
    header = {"run": plan.name, "healthy": healthy, "labels": plan.labels, "source": "trained", "log_every": plan.every}
    path = folder / f"{plan.name}.jsonl"
    path.write_text("\n".join([json.dumps(header), *(json.dumps(row) for row in rows)]) + "\n")
    return path


def _rows(plan: Plan, rng: random.Random):  # type: ignore[no-untyped-def]
    model = plan.task.model
    rate = plan.task.rate * plan.rate
    parameters = list(model.parameters())
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(parameters, rate)
        if plan.optimizer == "adam"
        else torch.optim.SGD(parameters, 20 * rate, plan.momentum)
    )
    base = optimizer.param_groups[0]["lr"]
    factors = list(schedule(plan.schedule, plan.steps))
    names = [name for name, p in model.named_parameters() if p.dim() > 1]
    first, last = names[0] if names else "", names[-1] if names else ""
    saved: dict[int, tuple[object, object]] = {}
    dead: list[float] = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(
                lambda _m, _i, out: dead.append(float((out.reshape(-1, out.shape[-1]) <= 0).all(0).float().mean()))
            )
    time, nan, step, done = 1000.0, 0, 0, set()
    while step < plan.steps and nan <= plan.after_nan:
        if step in plan.back.values():
            saved[step] = (
                {k: v.clone() for k, v in model.state_dict().items()},
                json.loads("null") or optimizer.state_dict(),
            )
        if step in plan.back and step not in done:
            done.add(step)
            step = plan.back[step]
            model.load_state_dict(saved[step][0])  # type: ignore[arg-type]
            time += 40
            continue
        for group in optimizer.param_groups:
            group["lr"] = base * factors[step]
        if plan.edit_model is not None:
            plan.edit_model(step, model, optimizer)
        optimizer.zero_grad()
        value = 0.0
        for _ in range(plan.accumulate):
            inputs, goal = plan.task.batch(plan.batch)
            if plan.edit_batch is not None:
                inputs, goal = plan.edit_batch(step, inputs, goal)
            dead.clear()
            loss = plan.task.loss(model(inputs), goal)
            if plan.edit_loss is not None:
                loss = plan.edit_loss(step, loss)
            (loss / plan.accumulate).backward()
            value += float(loss.detach()) / plan.accumulate
        norm = float(nn.utils.clip_grad_norm_(parameters, plan.clip if plan.clip is not None else 1e30))
        grads = {
            n: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None and n in (first, last)
        }
        watch = step % 10 == 0
        before = [p.detach().clone() for p in parameters] if watch else []
        skipped = plan.scaler and (step < 4 or step % 400 == 90)
        if not skipped:
            optimizer.step()
        else:
            norm = math.inf
        parts = plan.timing(step, rng) if plan.timing else _usual(plan.seconds, rng)
        pause = plan.pauses.pop(step, 0.0)
        if pause:
            beats = int(pause // 30)
            for beat in range(1, beats):
                yield {"step": max(0, step - 1), "t": round(time + 30 * beat, 3), "gpu_util": 0.0, "heartbeat": True}
        evaluated = plan.evaluate and step and step % plan.evaluate == 0
        time += parts["step_s"] + pause + (2.0 if evaluated else 0.0)
        if step % plan.every == 0:
            row: dict[str, object] = {
                "step": step,
                "t": round(time, 3),
                "loss": _number(value),
                "lr": base * factors[step],
                "grad_norm": _number(norm),
            }
            row.update(parts)
            if watch:
                moved = [(p.detach() - b) for p, b in zip(parameters, before, strict=True)]
                size = math.sqrt(sum(float((b**2).sum()) for b in before)) + 1e-12
                row["update_ratio"] = _number(math.sqrt(sum(float((m**2).sum()) for m in moved)) / size)
                row["unchanged_frac"] = sum(int((m == 0).sum()) for m in moved) / sum(m.numel() for m in moved)
                if names:
                    row["grad_norm_first"] = _number(grads.get(first, 0.0))
                    row["grad_norm_last"] = _number(grads.get(last, 0.0))
                if dead:
                    row["dead_frac"], row["dead_frac_max"] = sum(dead) / len(dead), max(dead)
            if evaluated:
                model.eval()
                with torch.no_grad():
                    row["val_loss"] = _number(
                        float(plan.task.loss(model(plan.task.held_out[0]), plan.task.held_out[1]))
                    )
                model.train()
            if plan.ranks is not None:
                row["rank_step_s"] = plan.ranks(step, rng)
            yield row
        nan += not math.isfinite(value)
        step += 1


def _usual(seconds: float, rng: random.Random) -> dict[str, float]:
    whole = seconds * math.exp(0.15 * rng.gauss(0, 1))
    return {
        "step_s": whole,
        "data_s": 0.05 * whole,
        "forward_s": 0.3 * whole,
        "backward_s": 0.5 * whole,
        "gpu_util": 90 + rng.gauss(0, 2),
        "samples_per_sec": 32 / whole,
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else NAMES.get(value, "NaN")
