"""`rankscope stacks`: where each rank of a run is right now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import click
from rich.console import Console
from rich.text import Text

from rankscope.agent.alerts.render import ranges
from rankscope.agent.commands._failure import UNREACHABLE, WRONG_USE, Failure
from rankscope.agent.commands._reach import default_address, request
from rankscope.agent.reports.stacks import Frame, Place, Stack, parse, places, shown

FRAMES = 12  # of a stack, unless all are asked for


@click.command(short_help="Show where each rank is right now, as Python stacks.")
@click.argument("run", required=False, metavar="[RUN]")
@click.option("--rank", "ranks", type=int, multiple=True, metavar="N", help="Only this rank; may be given again.")
@click.option("--threads", is_flag=True, help="Show all threads, not the main ones alone.")
@click.option("--all", "whole", is_flag=True, help=f"Show every call, not the {FRAMES} newest.")
@click.option("--agent", metavar="ADDRESS", default=default_address, help="The agent's address (or RANKSCOPE_HTTP).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(run: str | None, ranks: tuple[int, ...], threads: bool, whole: bool, agent: str, as_json: bool) -> None:
    """Show where each rank of RUN is right now, as Python stacks, whatever it hangs in.

    Ranks at the same place are shown together, the fewest first: when a run hangs, that is whom the others wait for.
    RUN is its name or the first characters of it; it may be left out where only one run is on. The ranks go on
    unharmed. The answers are kept in the run's folder, in rank_*/stacks/.

    \b
    rankscope stacks
    rankscope stacks exp-1 --rank 3 --threads
    rankscope stacks exp-1 --json | jq '.places'
    """
    name = _run(agent, run)
    query = "&".join(f"rank={rank}" for rank in ranks)
    answer = request(agent, "POST", f"/api/v1/runs/{name}/stacks" + (f"?{query}" if query else ""))
    told = cast("Sequence[Mapping[str, Any]]", answer["ranks"])
    stacks = {int(one["rank"]): parse(str(one["text"])) for one in told if one["text"]}
    found = places(stacks)
    if as_json:
        click.echo(json.dumps({**answer, "places": [_plain(place) for place in found]}))
    else:
        console = Console(highlight=False, markup=False, soft_wrap=True)
        for place in found:
            console.print(_picture(place, told, stacks, threads, None if whole else FRAMES))
        for one in told:
            if not one["text"]:
                console.print(Text(f"rank {one['rank']}: {one['refused']}", "red"))
        if files := [str(one["file"]) for one in told if one["file"]]:
            console.print(Text(f"kept as {files[0]}" + (" and beside it" if len(files) > 1 else ""), "bright_black"))
    if not found:
        raise click.exceptions.Exit(UNREACHABLE)


def _run(agent: str, wanted: str | None) -> str:
    """Return the name of the run that is meant. Raises Failure."""
    names = [str(run["id"]) for run in request(agent, "GET", "/api/v1/runs")["runs"]]
    fitting = [name for name in names if name.startswith(wanted or "")]
    if wanted in names:
        return str(wanted)
    if len(fitting) == 1:
        return fitting[0]
    here = f"here {'is' if len(names) == 1 else 'are'} {', '.join(names)}" if names else "no run is on here"
    if wanted is None or not names:
        raise Failure(f"which run? {here}" if names else f"{here}: nothing to ask", WRONG_USE if names else UNREACHABLE)
    raise Failure(f"{'several runs begin' if fitting else 'no run begins'} with {wanted}: {here}", WRONG_USE)


def _picture(
    place: Place, told: Sequence[Mapping[str, Any]], stacks: Mapping[int, Stack], threads: bool, most: int | None
) -> Text:
    """Return ranks that stand at the same place, with the calls that led there."""
    here = [one for one in told if one["rank"] in place.ranks]
    picture = Text(f"rank{'s' if len(here) > 1 else ''} {ranges(place.ranks)}", "bold")
    picture.append(f" · {_same([_step(one) for one in here])}", "cyan")
    if phase := _same([str(one["phase"]) for one in here]):
        picture.append(f" · {phase}", "magenta")
    picture.append(f"\n  {_same([stacks[rank].kernel for rank in place.ranks])}\n", "bright_black")
    picture.append_text(_calls(place.main, most))
    if threads:
        for thread in stacks[place.ranks[0]].others:
            picture.append(f"  thread {thread.name} of rank {place.ranks[0]}\n", "bright_black")
            picture.append_text(_calls(thread.frames, most))
    return picture


def _calls(frames: Sequence[Frame], most: int | None) -> Text:
    """Return calls, the most recent first; the user's own stand out."""
    kept, left_out = shown(frames, len(frames) if most is None else most)
    width = max((len(frame.function) for frame in kept), default=0)
    calls = Text()
    for frame in kept:
        calls.append(f"    {frame.function:<{width}}  ", "bright_black" if frame.library else "bold yellow")
        calls.append(f"{frame.short}:{frame.line}\n", "bright_black" if frame.library else "")
    if left_out:
        calls.append(f"    … {left_out} more (--all)\n", "bright_black")
    if not frames:
        calls.append("    no Python code runs in it\n", "bright_black")
    return calls


def _step(one: Mapping[str, Any]) -> str:
    return "no step yet" if one["step"] is None else f"step {one['step']:,}"


def _same(values: Sequence[str]) -> str:
    """Return what all say, or all that is said."""
    different = list(dict.fromkeys(value for value in values if value))
    return " / ".join(different[:3]) + (" / …" if len(different) > 3 else "")


def _plain(place: Place) -> dict[str, object]:
    calls = [{"function": frame.function, "file": frame.file, "line": frame.line} for frame in place.main]
    return {"ranks": list(place.ranks), "calls": calls}
