"""The whole picture, as lines of a terminal."""

from __future__ import annotations

from rich.text import Text

from rankscope.agent.terminal import alerts, gpus, header, runs
from rankscope.agent.terminal.marks import legend, ordered
from rankscope.agent.terminal.room import share
from rankscope.agent.terminal.section import Frame, rule
from rankscope.agent.terminal.seen import Seen

WEIGHTS = (1, 1, 2)  # alerts, GPUs, runs


def lines(
    seen: Seen, frame: Frame, height: int | None = None, *, lost: str = "", lost_for: float = 0.0, keys: str = ""
) -> list[Text]:
    """Return the picture in at most `height` lines (None: as many as it takes).

    `lost`: why the agent does not answer for `lost_for` seconds; all but that is greyed then.
    """
    top = header.lines(seen, frame, lost, lost_for)
    parts = [alerts.section(seen, frame), gpus.section(seen.gpus, frame), runs.section(seen.runs, seen.alerts, frame)]
    foot = _footer(seen, frame, keys)
    wanted = [part.wanted + 1 for part in parts]
    room = sum(wanted) if height is None else max(0, height - len(top) - len(foot))
    given = share(room, wanted, [part.least + 1 for part in parts], WEIGHTS)
    drawn = {
        part.title.plain: [rule(part.title, frame.width), *part.draw(each - 1)]
        for part, each in zip(parts, given, strict=True)
        if each > 1
    }
    order = [parts[1], parts[2], parts[0]]
    body = [line for part in order for line in drawn.get(part.title.plain, [])]
    picture = top + body
    if height is not None:
        picture = picture[: height - len(foot)]
        picture += [Text()] * (height - len(foot) - len(picture))
    picture += foot
    if lost:
        picture = [picture[0], *(Text(line.plain, "bright_black") for line in picture[1:])]
    for line in picture:
        line.truncate(frame.width)
        line.rstrip()
    return picture


def _footer(seen: Seen, frame: Frame, keys: str) -> list[Text]:
    """Return what the phases' cells mean, and what keys do; nothing where there is neither."""
    names = {phase: 1.0 for run in seen.runs for rank in run.ranks for phase in rank.shares}
    left = legend(ordered(names), colour=frame.colour)
    if not left and not keys:
        return []
    left.truncate(max(0, frame.width - len(keys) - 2), overflow="ellipsis")
    left.append(" " * max(0, frame.width - left.cell_len - len(keys))).append(keys, "dim")
    return [left]
