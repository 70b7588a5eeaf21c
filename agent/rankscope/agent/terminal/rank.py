"""One rank: its row, what it does, and how much it needs a look."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.text import Text

from rankscope.agent.terminal.columns import Cell, Column
from rankscope.agent.terminal.marks import curve, phases
from rankscope.agent.terminal.section import SEVERITIES, Frame
from rankscope.agent.terminal.seen import Rank
from rankscope.agent.terminal.words import NONE, duration, number, whole

LONG = 5.0  # seconds, and step times, without a step from which on that is said
COLUMNS = (
    Column("rank", "rank", right=True, least=4),
    Column("gpu", "GPU", right=True, rank=9),
    Column("step", "step", right=True, least=5),
    Column("pace", "steps/s", right=True, rank=3),
    Column("loss", "loss", right=True, least=6),
    Column("curve", "", rank=2, least=8, most=32),
    Column("val_loss", "val loss", right=True, rank=5),
    Column("lr", "lr", right=True, rank=7),
    Column("grad_norm", "grad norm", right=True, rank=6),
    Column("phases", "phases", rank=4, least=10, most=40),
    Column("state", "  state", least=11),
    Column("heard", "heard", right=True, rank=8, least=5),
)
_GRAVE = ("ok", "cut off", "late", "not finite", "silent", "failed")


def row(rank: Rank, alerted: Mapping[int, str], frame: Frame) -> dict[str, Cell]:
    """Return a rank's cells. `alerted`: severity of what fires about a rank, by rank."""
    ended = rank.state in ("finished", "failed")
    found: dict[str, Cell] = {
        "rank": Text(str(rank.number), "dim" if ended else "bold"),
        "step": whole(rank.step),
        "loss": _value(rank.loss),
        "state": _state(rank, alerted, frame.now),
        "phases": lambda width: phases(rank.shares, width, colour=frame.colour) if rank.shares else Text(NONE, "dim"),
    }
    if rank.loss_curve:
        found["curve"] = lambda width: curve(rank.loss_curve, width)
    for name, value, digits in (("val_loss", rank.val_loss, 4), ("lr", rank.lr, 3), ("grad_norm", rank.grad_norm, 3)):
        if value is not None:
            found[name] = _value(value, digits)
    if rank.gpu:
        found["gpu"] = rank.gpu
    if rank.step_seconds:
        found["pace"] = number(1 / rank.step_seconds, 3)
    if rank.last_seen is not None:
        found["heard"] = Text(duration(frame.now - rank.last_seen), "dim")
    return found


def concern(rank: Rank, alerted: Mapping[int, str], now: float) -> tuple[int, float, int, int]:
    """Return what sorts ranks, the worst first; where many stand still, those first that stopped at the lowest step."""
    trouble = _trouble(rank, now)
    behind = (rank.step or 0.0) if trouble in ("late", "silent") else 0.0
    severity = list(SEVERITIES).index(alerted[rank.number]) if alerted.get(rank.number) in SEVERITIES else 9
    return -_GRAVE.index(trouble), behind, severity, rank.number


def overdue(rank: Rank, now: float) -> float | None:
    """Return for how many seconds no step has ended, where that is longer than it usually is."""
    if rank.last_step_time is None:
        return None
    waited = now - rank.last_step_time
    return waited if waited > max(LONG, LONG * (rank.step_seconds or 0.0)) else None


def _trouble(rank: Rank, now: float) -> str:
    if rank.state in ("failed", "silent"):
        return rank.state
    if rank.loss is not None and not math.isfinite(rank.loss):
        return "not finite"
    if rank.state == "finished":
        return "ok"
    return "late" if overdue(rank, now) is not None else "ok" if rank.connected else "cut off"


def _state(rank: Rank, alerted: Mapping[int, str], now: float) -> Text:
    mark = ("! ", SEVERITIES.get(alerted[rank.number], "")) if rank.number in alerted else "  "
    return Text.assemble(mark, _words(rank, now))


def _words(rank: Rank, now: float) -> Text:
    if rank.state == "failed":
        return Text("failed" if rank.exit in ("", "failed") else f"failed: {rank.exit}", "bold red")
    if rank.state == "silent":
        return Text(f"silent {duration(now - (rank.last_seen or now))}", "red")
    if rank.state == "finished":
        return Text("finished", "dim")
    waited = overdue(rank, now)
    if waited is not None:
        return Text(f"{rank.phase or 'no step'} {duration(waited)}", "yellow")
    if not rank.connected:
        return Text("cut off", "yellow")
    return Text("starting", "cyan") if rank.step is None else Text("running", "green")


def _value(value: float | None, digits: int = 4) -> Text:
    return Text(number(value, digits), "bold red" if value is not None and not math.isfinite(value) else "")
