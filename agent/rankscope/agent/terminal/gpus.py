"""The node's GPUs: how busy, how full, how hot, what they do, and for whom."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from rankscope.agent.alerts.render import ranges
from rankscope.agent.terminal.columns import Cell, Column, lines
from rankscope.agent.terminal.marks import bar
from rankscope.agent.terminal.section import Frame, Section
from rankscope.agent.terminal.seen import Gpu
from rankscope.agent.terminal.words import NONE, counted, gibibytes, percent, plural, spread, whole

TELLING = 0.25  # ratio of the last seconds from which on a state is worth more words than "working"
STYLES = {
    "dead": "bold red",
    "throttled": "red",
    "starved": "yellow",
    "communicating": "magenta",
    "working": "green",
    "idle": "yellow",
}
COLUMNS = (
    Column("gpu", "GPU", right=True),
    Column("name", "model", rank=7),
    Column("bar", "busy", rank=3, least=6, most=30),
    Column("busy", "", right=True, least=4),
    Column("memory", "memory GiB", right=True, rank=2),
    Column("power", "power W", right=True, rank=4),
    Column("celsius", "°C", right=True, rank=5, least=3),
    Column("state", "state", least=12),
    Column("ranks", "ranks", rank=6, least=12, most=48),
)


def section(gpus: Sequence[Gpu], frame: Frame) -> Section:
    """Return the GPUs by index, or, where they do not all fit, those first that need a look."""
    if not gpus:
        return Section(Text("GPUs"), 1, 0, lambda room: [Text("no GPU is sampled on this node", "dim")][:room])

    def draw(room: int) -> list[Text]:
        if room < 2:
            return [_more(gpus)][:room]
        if len(gpus) + 1 <= room:
            shown, hidden = list(gpus), list[Gpu]()
        else:
            worst = sorted(gpus, key=_concern, reverse=True)
            shown, hidden = worst[: room - 2], worst[room - 2 :]
        alike, runs = _alike(gpus), {run for gpu in gpus for run in gpu.ranks}
        titles, rows = lines(COLUMNS, [_row(gpu, alike=alike, runs=len(runs)) for gpu in shown], frame.width)
        return [titles, *rows, *([_more(hidden)] if hidden else [])] if shown else [_more(hidden)]

    return Section(_title(gpus), len(gpus) + 1, min(len(gpus) + 1, 4), draw)


def _title(gpus: Sequence[Gpu]) -> Text:
    title = Text.assemble(("GPUs", "bold"))
    if _alike(gpus):
        title.append(f"  {len(gpus)} × {_short(gpus[0].name)}")
    if any(gpu.simulated for gpu in gpus):
        title.append("  simulated: not in this machine", "yellow")
    return title


def _row(gpu: Gpu, *, alike: bool, runs: int) -> dict[str, Cell]:
    full = gpu.memory_used / gpu.memory_size if gpu.memory_used is not None and gpu.memory_size else None
    style = STYLES["working" if gpu.busy is not None and gpu.busy >= 0.5 else "idle"] if gpu.ranks else "dim"
    row: dict[str, Cell] = {
        "gpu": Text.assemble((gpu.index, "bold"), (" sim" if gpu.simulated else "", "yellow")),
        "bar": lambda width: bar(gpu.busy, width, style),
        "busy": percent(gpu.busy),
        "memory": Text(
            f"{gibibytes(gpu.memory_used)}/{gibibytes(gpu.memory_size)}", "red" if (full or 0) > 0.97 else ""
        ),
        "power": f"{whole(gpu.watts)}/{whole(gpu.watts_limit)}",
        "celsius": Text(whole(gpu.celsius), _heat(gpu)),
        "state": _state(gpu),
        "ranks": lambda width: _ranks(gpu, runs),
    }
    return row if alike else row | {"name": _short(gpu.name)}


def _state(gpu: Gpu) -> Text:
    word, part = told(gpu)
    style = "dim" if word == "idle" and not gpu.ranks else STYLES.get(word, "dim")
    return Text(f"{word} {percent(part)}" if part is not None and part < 0.995 else word, style)


def told(gpu: Gpu) -> tuple[str, float | None]:
    """Return what a GPU does: the gravest state that took its part of the last seconds, and which part."""
    if not gpu.up:
        return "dead", None
    if not gpu.states:
        return NONE, None
    for state in ("dead", "throttled", "starved", "communicating"):
        if gpu.states.get(state, 0.0) >= TELLING:
            return state, gpu.states[state]
    most = "working" if gpu.states.get("working", 0.0) >= gpu.states.get("idle", 0.0) else "idle"
    return most, None


def _concern(gpu: Gpu) -> int:
    """Return what sorts GPUs, the worst last; one that nobody uses concerns nobody. By state alone: rows stay put."""
    word, _ = told(gpu)
    grave = ("working", "communicating", "idle", "starved", "throttled", "dead")
    return -1 if word not in grave or (word == "idle" and not gpu.ranks) else grave.index(word)


def _more(gpus: Sequence[Gpu]) -> Text:
    states = [state for gpu in gpus if (state := told(gpu)[0]) != NONE]
    busy = spread([None if gpu.busy is None else 100 * gpu.busy for gpu in gpus], 2)
    facts = ([counted(states)] if states else []) + ([f"busy {busy} %"] if busy else [])
    return Text(f"  + {plural(len(gpus), 'more GPU')}: {', '.join(facts) or 'not told'}", "dim")


def _ranks(gpu: Gpu, runs: int) -> Text:
    """Say whose a GPU is; where the node has but one run, its name stands elsewhere."""
    if runs == 1 and gpu.ranks:
        return Text(ranges(*gpu.ranks.values()))
    return Text(
        ", ".join(f"{ranges(ranks)} of {run}" for run, ranks in gpu.ranks.items()) or "none", "" if gpu.ranks else "dim"
    )


def _heat(gpu: Gpu) -> str:
    if gpu.celsius is None:
        return "dim"
    margin = (gpu.celsius_slowdown if gpu.celsius_slowdown is not None else 90.0) - gpu.celsius
    return "bold red" if margin <= 2 else "yellow" if margin <= 10 else ""


def _alike(gpus: Sequence[Gpu]) -> bool:
    return len({gpu.name for gpu in gpus}) == 1


def _short(name: str) -> str:
    return name.removeprefix("NVIDIA ")
