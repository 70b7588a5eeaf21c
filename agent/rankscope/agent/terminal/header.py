"""The first lines: which node, how the agent is, and what it does not see."""

from __future__ import annotations

import time

from rich.text import Text

from rankscope.agent.terminal.section import Frame, joined
from rankscope.agent.terminal.seen import Seen
from rankscope.agent.terminal.words import duration, gibibytes, number, percent, plural

BLIND = 3  # samplers that do not see and are shown, one a line


def lines(seen: Seen, frame: Frame, lost: str, lost_for: float) -> list[Text]:
    """Return the header. `lost`: why the agent does not answer, for `lost_for` seconds; empty while it does."""
    found: list[Text] = []
    if lost:
        words = (
            f" agent lost {duration(lost_for)} ago, trying again; this is the picture of {clock(seen.time)}: {lost} "
        )
        found.append(Text(words, "bold white on red", no_wrap=True, overflow="ellipsis"))
        found[0].truncate(frame.width, overflow="ellipsis", pad=True)
    found.append(_first(seen, frame, lost))
    for name, why in list(seen.blind.items())[:BLIND]:
        found.append(_trouble("blind", f"{name}: {why or 'does not answer'}", "red", frame))
    if len(seen.blind) > BLIND:
        found.append(_trouble("blind", f"and {len(seen.blind) - BLIND} more samplers", "red", frame))
    if seen.dropped:
        counts = ", ".join(f"{count} {reason}" for reason, count in seen.dropped.items())
        found.append(_trouble("dropped", counts, "yellow", frame))
    return found


def clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


def _first(seen: Seen, frame: Frame, lost: str) -> Text:
    link = Text("● live", "green") if seen.ready else Text("● starts or ends", "yellow")
    if lost:
        link = Text("○ lost", "red")
    if frame.live:
        right = Text.assemble((clock(frame.now), "dim"), "  ", link)
    else:
        right = Text(time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(frame.now)))
    connected = sum(rank.connected and rank.state in ("running", "silent") for run in seen.runs for rank in run.ranks)
    parts = [Text(seen.hostname, "bold"), Text(f"{plural(connected, 'rank')} connected", "" if connected else "dim")]
    parts.append(Text(f"agent {seen.version}, up {duration(frame.now - seen.started)}"))
    parts += _system(seen)
    left = joined(parts, max(0, frame.width - right.cell_len - 2), gap=3)
    return left.append(" " * max(0, frame.width - left.cell_len - right.cell_len)).append_text(right)


def _system(seen: Seen) -> list[Text]:
    found: list[Text] = []
    load, cpus = seen.system.get("load1"), seen.system.get("cpus")
    if load is not None and cpus:
        found.append(Text(f"load {number(load, 2)} on {plural(int(cpus), 'CPU')}", "yellow" if load > cpus else ""))
    free, size = seen.system.get("memory_available_bytes"), seen.system.get("memory_size_bytes")
    if free is not None and size:
        used = 1 - free / size
        found.append(Text(f"memory {percent(used)} of {gibibytes(size)} GiB", "red" if used > 0.95 else ""))
    return found


def _trouble(word: str, words: str, style: str, frame: Frame) -> Text:
    line = Text.assemble((f"{word}: ", f"bold {style}"), (words, style), no_wrap=True)
    line.truncate(frame.width, overflow="ellipsis")
    return line
