"""The runs on this node, and the ranks of each: all of them, or the worst and what the others have in common."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.text import Text

from rankscope.agent.terminal import rank as ranks
from rankscope.agent.terminal.columns import lines
from rankscope.agent.terminal.marks import bar
from rankscope.agent.terminal.room import share
from rankscope.agent.terminal.section import SEVERITIES, Frame, Section, joined
from rankscope.agent.terminal.seen import Alert, Rank, Run
from rankscope.agent.terminal.words import counted, duration, number, percent, plural, spread

ORDER = ("running", "silent", "failed", "finished")
STYLES = {"running": "green", "silent": "red", "failed": "bold red", "finished": "dim"}
ADVICE = (
    ("no training has spoken to this agent yet", ""),
    ("in the script", "from rankscope import sdk"),
    ("", 'sdk.init(project="…"); sdk.log(loss=loss)'),
    ("if it does so", "RANKSCOPE_AGENT=unix:/path or host:port says where it is"),
    ("to see it work", "rankscope demo"),
)


def section(runs: Sequence[Run], alerts: Sequence[Alert], frame: Frame) -> Section:
    """Return the runs, those that run first."""
    if not runs:
        return Section(Text("Runs", "bold"), len(ADVICE), len(ADVICE), lambda room: _advice(frame)[:room])
    ordered = sorted(runs, key=lambda run: ORDER.index(run.state) if run.state in ORDER else 0)
    wanted = [1 + len(_rows(run)) for run in ordered]
    titles = any(_rows(run) for run in ordered)

    def draw(room: int) -> list[Text]:
        given = share(room - titles, wanted, [min(want, 3) for want in wanted])
        if 0 in given:
            given = share(room - titles - 1, wanted, [min(want, 3) for want in wanted])
        drawn = _draw([(run, each) for run, each in zip(ordered, given, strict=True) if each], alerts, frame)
        left_out = [run.state for run, each in zip(ordered, given, strict=True) if not each]
        if left_out:
            drawn.append(Text(f"  + {plural(len(left_out), 'more run')}: {counted(left_out)}", "dim"))
        return drawn[:room]

    return Section(Text("Runs", "bold"), sum(wanted) + titles, min(sum(wanted) + titles, 5), draw)


def _rows(run: Run) -> list[Rank]:
    """Return the ranks of a run that get a line of their own: of one that is over, those that failed."""
    if run.state == "finished":
        return []
    return [rank for rank in run.ranks if run.state != "failed" or rank.state == "failed"]


def _draw(runs: Sequence[tuple[Run, int]], alerts: Sequence[Alert], frame: Frame) -> list[Text]:
    shown: list[tuple[Run, list[Rank], list[Rank]]] = []
    for run, room in runs:
        few, rest = _chosen(run, room - 1, _alerted(run, alerts), frame)
        shown.append((run, few, rest))
    cells = [ranks.row(rank, _alerted(run, alerts), frame) for run, few, _ in shown for rank in few]
    titles, rows = lines(ranks.COLUMNS, cells, frame.width)
    drawn = [titles] if rows else []
    for run, few, rest in shown:
        drawn.append(_heading(run, frame))
        drawn += [rows.pop(0) for _ in few]
        if rest:
            drawn.append(_more(rest, len(few), frame))
    return drawn


def _chosen(run: Run, room: int, alerted: Mapping[int, str], frame: Frame) -> tuple[list[Rank], list[Rank]]:
    """Return the ranks that are shown in `room` lines, and those that share the last of these lines."""
    every = _rows(run)
    if len(every) <= room:
        return every, []
    worst = sorted(every, key=lambda rank: ranks.concern(rank, alerted, frame.now))
    few = max(0, room - 1)
    return worst[:few], worst[few:] if room > 0 else []


def _alerted(run: Run, alerts: Sequence[Alert]) -> dict[int, str]:
    """Return the gravest severity that fires about each rank of a run."""
    found: dict[int, str] = {}
    for alert in alerts:
        if alert.run == run.id and alert.state == "firing" and not alert.silenced:
            for rank in alert.ranks:
                known = list(SEVERITIES)
                if rank not in found or known.index(alert.severity) < known.index(found[rank]):
                    found[rank] = alert.severity
    return found


def _heading(run: Run, frame: Frame) -> Text:
    step = max((rank.step for rank in run.ranks if rank.step is not None), default=None)
    parts = [Text(run.id, "bold cyan")]
    if run.state != "running":
        parts.append(Text(f"{run.state} {duration(frame.now - run.last_event)} ago", STYLES.get(run.state, "")))
    if step is not None:
        parts.append(Text(f"step {step:.0f}" + (f" of {run.target_steps:.0f}" if run.target_steps else "")))
    if step is not None and run.target_steps and run.state == "running":
        done = min(1.0, (step + 1) / run.target_steps)
        parts.append(Text.assemble(bar(done, 12, "cyan"), f" {percent(done)}"))
        paces = [rank.step_seconds for rank in run.ranks if rank.step_seconds]
        stands = all(ranks.overdue(rank, frame.now) is not None for rank in run.ranks)
        if paces and done < 1 and not stands:
            left = (run.target_steps - step - 1) * statistics.median(paces)
            parts.append(Text(f"about {duration(left)} left"))
    if not _rows(run):
        loss = next((rank.loss for rank in run.ranks if rank.loss is not None), None)
        parts += [Text(f"loss {number(loss)}")] if loss is not None else []
    here = len(run.ranks)
    parts.append(Text(plural(here, "rank") if here == run.world_size else f"{here} of {run.world_size} ranks here"))
    parts += [Text(f"restarted {plural(run.attempt, 'time')}", "yellow")] if run.attempt else []
    parts.append(Text(f"project {run.project}", "dim"))
    return joined(parts, frame.width)


def _more(rest: Sequence[Rank], shown: int, frame: Frame) -> Text:
    facts = [counted([rank.state for rank in rest])]
    steps = sorted(rank.step for rank in rest if rank.step is not None)
    if steps:
        facts.append("step " + "–".join(dict.fromkeys(f"{step:.0f}" for step in (steps[0], steps[-1]))))
    if pace := spread([1 / rank.step_seconds if rank.step_seconds else None for rank in rest], 3):
        facts.append(f"{pace} steps/s")
    if loss := spread([rank.loss for rank in rest]):
        facts.append(f"loss {loss}")
    count = f"+ {len(rest)} more" if shown else plural(len(rest), "rank")
    line = Text(f"  {count}: {', '.join(facts)}", "dim", no_wrap=True)
    line.truncate(frame.width, overflow="ellipsis")
    return line


def _advice(frame: Frame) -> list[Text]:
    found = [Text(ADVICE[0][0], "yellow")]
    for what, how in ADVICE[1:]:
        found.append(Text.assemble((f"  {what:16}", "dim"), how, no_wrap=True))
        found[-1].truncate(frame.width, overflow="ellipsis")
    return found
